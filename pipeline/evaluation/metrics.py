"""Scores, intervals, calibration, curves and paired differences."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.stats import binomtest, norm
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import (
    accuracy_score,
    auc,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_recall_curve,
    precision_recall_fscore_support,
    recall_score,
    roc_curve,
)
from sklearn.utils.metaestimators import available_if

from pipeline.answers import Answers, positions

N_BINS = 10
_Z = float(norm.ppf(0.975))
_COUNTS_AT_ONCE = 20_000_000  # resampled sets x texts in memory


def classification_scores(
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    ranking: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Score labels and probabilities, (n_texts, n_classes), against true class positions.

    Labels from n_classes on are wrong; rows of NaN mean no probabilities; `ranking` is for example
    ``decision_function``. ``f1``, ``roc_auc`` and ``average_precision`` refer to the second of two
    classes, else they are macro (None if a class is absent); ``brier`` is summed over more than two
    classes.
    """
    n_classes = probability.shape[1]
    probability = _normalized(probability)
    ranking = probability if ranking is None else ranking
    known = not np.isnan(probability).all()
    labels = list(range(n_classes))
    f1 = f1_score(true, predicted, labels=labels, average=None, zero_division=0.0)
    area = average = None
    if len(np.unique(true)) == n_classes and not np.isnan(ranking).all():
        area, average = _mean_ranking(true, ranking, np.ones((1, len(true))))[:, 0].tolist()
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "balanced_accuracy": float(
            recall_score(true, predicted, labels=np.unique(true), average="macro")
        ),
        "f1": float(f1[1] if n_classes == 2 else f1.mean()),
        "macro_f1": float(f1.mean()),
        "roc_auc": area,
        "average_precision": average,
        "log_loss": float(log_loss(true, probability, labels=labels)) if known else None,
        "brier": float(brier_score_loss(true, probability, labels=labels)) if known else None,
        "calibration_error": expected_calibration_error(true, probability) if known else None,
    }


def _normalized(probability: np.ndarray) -> np.ndarray:
    """Return rows that sum to 1 in float64, unchanged if they do."""
    rows = np.asarray(probability, dtype=np.float64)
    total = rows.sum(axis=1, keepdims=True)
    return rows if np.abs(total - 1).max(initial=0.0) < 1e-12 else np.asarray(rows / total)


def calibration_table(true: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Return size, mean confidence and accuracy of each bin with texts."""
    if np.isnan(probability).all():
        return []
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == true
    bins = _bins(probability)
    return [
        {
            "low": number / N_BINS,
            "high": (number + 1) / N_BINS,
            "n_texts": int(inside.sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for number in range(N_BINS)
        if (inside := bins == number).any()
    ]


def _bins(probability: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum((probability.max(axis=1) * N_BINS).astype(np.int64), N_BINS - 1))


def expected_calibration_error(true: np.ndarray, probability: np.ndarray) -> float:
    """Return the expected calibration error (Guo et al. 2017)."""
    rows = calibration_table(true, probability)
    gaps = sum(row["n_texts"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return gaps / len(true)


def intervals_of(drawn: Mapping[str, np.ndarray]) -> dict[str, list[float] | None]:
    """Return 95 % intervals of scores on resampled texts, None without any."""
    finite = {name: values[np.isfinite(values)] for name, values in drawn.items()}
    return {
        name: np.percentile(values, [2.5, 97.5]).tolist() if len(values) else None
        for name, values in finite.items()
    }


def resampled_scores(
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    ranking: np.ndarray,
    *,
    n_samples: int,
    random_state: int,
) -> dict[str, np.ndarray]:
    """Return every score on resampled texts, (n_samples,) or NaN."""
    scores = partial(_counted_scores, true, predicted, _normalized(probability), ranking)
    return _resampled(scores, len(true), n_samples, random_state)


def _resampled(
    scores: Callable[[np.ndarray], dict[str, np.ndarray]],
    n_texts: int,
    n_samples: int,
    random_state: int,
) -> dict[str, np.ndarray]:
    """Return the scores of resampled texts, some samples at a time."""
    random = np.random.default_rng(random_state)
    drawn: dict[str, list[np.ndarray]] = {}
    at_once = max(1, _COUNTS_AT_ONCE // n_texts)
    for start in range(0, n_samples, at_once):
        samples = (
            random.integers(n_texts, size=n_texts) for _ in range(min(at_once, n_samples - start))
        )
        times = np.stack([np.bincount(rows, minlength=n_texts) for rows in samples])
        for name, values in scores(times.astype(float)).items():
            drawn.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in drawn.items()}


def _counted_scores(
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    ranking: np.ndarray,
    times: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return `classification_scores` of each sample, (n_samples,), NaN for None.

    ``times``, (n_samples, n_texts), counts each text in each sample.
    """
    n_texts, n_classes = probability.shape
    n, everyone, right = times.sum(axis=1), np.arange(n_texts), predicted == true

    def count(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        member = csr_array((np.ones(len(rows)), (rows, classes[rows])), shape=(n_texts, n_classes))
        return np.asarray(times @ member)

    hits, support = count(np.flatnonzero(right), true), count(everyone, true)
    guessed = count(np.flatnonzero(predicted < n_classes), predicted)
    f1 = 2 * hits / np.maximum(support + guessed, 1e-300)
    recall = np.divide(hits, support, out=np.full_like(hits, np.nan), where=support > 0)
    scores = {
        "accuracy": times @ right / n,
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "f1": f1[:, 1] if n_classes == 2 else f1.mean(axis=1),
        "macro_f1": f1.mean(axis=1),
    }
    if not np.isnan(ranking).all():
        areas, averages = _mean_ranking(true, ranking, times)
        scores["roc_auc"] = areas
        scores["average_precision"] = np.where((support > 0).all(axis=1), averages, np.nan)
    if np.isnan(probability).all():
        return scores
    of_true = probability[everyone, true]
    squares = (np.square(probability).sum(axis=1) - 2 * of_true + 1) / (2 if n_classes == 2 else 1)
    eps = np.finfo(probability.dtype).eps
    losses = -np.log(np.clip(of_true, eps, 1 - eps))
    bins = np.eye(N_BINS)[_bins(probability)]
    gap = probability.max(axis=1) - (probability.argmax(axis=1) == true)
    return scores | {
        "log_loss": times @ losses / n,
        "brier": times @ squares / n,
        "calibration_error": np.abs(times @ (gap[:, None] * bins)).sum(axis=1) / n,
    }


def _mean_ranking(true: np.ndarray, ranking: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return ROC-AUC and average precision of each sample, (2, n_samples)."""
    positive = range(1, 2) if ranking.shape[1] == 2 else range(ranking.shape[1])
    # (n_texts, n_samples); counts are exact in float32
    by_text = np.ascontiguousarray(times.T, dtype=np.float32)
    each = [_ranking(true == i, ranking[:, i], by_text) for i in positive]
    return np.asarray(np.mean(each, axis=0))


def _ranking(
    positive: np.ndarray, score: np.ndarray, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ROC-AUC and average precision, (n_samples,), NaN without both classes."""
    # both are sums over positives: texts that score like one, and those between two
    order = np.argsort(-score, kind="stable")
    ranked, thresholds = -score[order], np.unique(-score[positive])
    edges = [np.searchsorted(ranked, thresholds, side) for side in ("left", "right")]
    starts = np.concatenate([[0], np.stack(edges, axis=1).ravel(), [len(score)]])

    hits = np.zeros((len(starts) - 1, times.shape[1]))  # (n_thresholds * 2 + 1, n_samples)
    places = 2 * np.searchsorted(thresholds, -score[positive]) + 1
    np.add.at(hits, places, times[positive])
    ones = np.ones(len(score), dtype=np.float32)
    misses = csr_array((ones, order, starts), shape=(len(hits), len(score))) @ times - hits
    n_hits, n_misses = hits.sum(axis=0), misses.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        right, wrong = hits.cumsum(axis=0), misses.cumsum(axis=0)
        below = n_misses - wrong + misses / 2  # negatives with lower scores, and half of the ties
        area = (hits * below).sum(axis=0) / (n_hits * n_misses)
        average = (hits * right / np.maximum(right + wrong, 1e-300)).sum(axis=0) / n_hits
    return area, average


LABEL_SET_SCORES = (
    *("accuracy", "micro_f1", "macro_f1", "hamming_loss", "roc_auc", "average_precision"),
    *("log_loss", "brier", "calibration_error"),
)


def label_set_scores(
    true: np.ndarray, answers: Answers, *, n_samples: int = 0, random_state: int = 0
) -> tuple[dict[str, float | None], dict[str, np.ndarray]]:
    """Score labels of 0 and 1, (n_texts, n_labels), also on resampled texts.

    ``accuracy`` needs all labels of a text right; ``micro_f1`` is over all labels of all texts; the
    last five are means over the labels that some texts have and others lack.
    """
    predicted = answers.labels
    given = map(two_columns, (answers.probability, answers.ranking))
    each = list(zip(true.T, predicted.T, *given, strict=True))
    all_right, wrong = (true == predicted).all(axis=1), (true != predicted).mean(axis=1)
    hits, marked = (true & predicted).sum(axis=1), (true + predicted).sum(axis=1)

    def scores(times: np.ndarray) -> dict[str, np.ndarray]:
        n = times.sum(axis=1)
        found = [_counted_scores(own, said, p, rank, times) for own, said, p, rank in each]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            means = {
                name: np.nanmean([scores[name] for scores in found if name in scores], axis=0)
                for name in found[0]
            }
        return means | {
            "accuracy": times @ all_right / n,
            "hamming_loss": times @ wrong / n,
            "micro_f1": 2 * (times @ hits) / np.maximum(times @ marked, 1e-300),
            "macro_f1": means["f1"],
        }

    once = scores(np.ones((1, len(true))))
    whole = {name: float(once.get(name, [np.nan])[0]) for name in LABEL_SET_SCORES}
    drawn = _resampled(scores, len(true), n_samples, random_state)
    kept = {name: drawn[name] for name in LABEL_SET_SCORES if name in drawn}
    return {name: None if np.isnan(value) else value for name, value in whole.items()}, kept


def two_columns(numbers: np.ndarray) -> np.ndarray:
    """Return probabilities of 0 and 1, (n_labels, n_texts, 2)."""
    return np.stack([1 - numbers.T, numbers.T], axis=2)


def class_table(
    true: np.ndarray, predicted: np.ndarray, classes: list[Any]
) -> list[dict[str, Any]]:
    """Return precision, recall, f1 and n_texts of every class."""
    columns = precision_recall_fscore_support(
        true, predicted, labels=range(len(classes)), zero_division=0.0
    )
    names = ("class", "precision", "recall", "f1", "n_texts")
    rows = zip(classes, *(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def wilson_interval(n_right: int, n: int) -> list[float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    return [float(end) for end in binomtest(n_right, n).proportion_ci(method="wilson")]


MOST_POINTS = 101  # of a curve: keeps areas to about 0.001


def score_curves(true: np.ndarray, ranking: np.ndarray, classes: list[Any]) -> list[dict[str, Any]]:
    """Return ROC and precision-recall curves of each class against the rest.

    With two classes, only of the second. Long curves are thinned, but their areas are exact.
    Classes of no or all texts, and rankings of NaN, have none.
    """
    present = set(np.unique(true).tolist())
    return [
        _curves(true == i, ranking[:, i], classes[i])
        for i in ([1] if len(classes) == 2 else range(len(classes)))
        if i in present and len(present) > 1 and not np.isnan(ranking).all()
    ]


def _curves(positive: np.ndarray, score: np.ndarray, label: Any) -> dict[str, Any]:
    false_rate, true_rate, _ = roc_curve(positive, score)
    precision, recall, _ = precision_recall_curve(positive, score)
    return {
        "class": label,
        "n_texts": int(positive.sum()),
        "roc_auc": float(auc(false_rate, true_rate)),
        "average_precision": float(-np.sum(np.diff(recall) * precision[:-1])),
        "roc": _thinned({"false_positive_rate": false_rate, "true_positive_rate": true_rate}),
        "precision_recall": _thinned({"recall": recall[::-1], "precision": precision[::-1]}),
    }


def _thinned(curve: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Keep at most `MOST_POINTS` at even steps along a curve."""
    points = np.stack(list(curve.values()))  # (2, n_points)
    if points.shape[1] > MOST_POINTS:
        along = np.concatenate([[0.0], np.abs(np.diff(points)).sum(axis=0).cumsum()])
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], MOST_POINTS)))
        points = points[:, np.union1d(kept[:MOST_POINTS], [0, points.shape[1] - 1])]
    return {name: values.tolist() for name, values in zip(curve, points, strict=True)}


class GivenAnswers(ClassifierMixin, BaseEstimator):
    """A classifier with given answers, for scikit-learn's scorers."""

    def __init__(self, classes: Any, true: Any, labels: Any, answers: Any) -> None:
        self.classes, self.true, self.labels, self.answers = classes, true, labels, answers
        self.classes_ = np.asarray(classes)

    def predict(self, X: Any) -> Any:
        """Return the given labels of rows."""
        return self.labels[X]

    @available_if(lambda self: self.answers.decision is not None)
    def decision_function(self, X: Any) -> Any:
        """Return the given decisions of rows."""
        return self.answers.decision[X]

    @available_if(lambda self: not np.isnan(self.answers.probability).all())
    def predict_proba(self, X: Any) -> Any:
        """Return the given probabilities of rows."""
        return self.answers.probability[X]


# scorers take milliseconds per resampled set, our own scores microseconds
_N_BY_SCORER, _N_OWN = 200, 1000


def score_rows(scorer: Any, model: GivenAnswers, rows: np.ndarray) -> float:
    """Return a scorer's value on some rows, NaN if it has none."""
    with warnings.catch_warnings(), config_context(skip_parameter_validation=True):
        warnings.simplefilter("ignore")
        try:
            return float(scorer(model, rows, model.true[rows]))
        except (AttributeError, ValueError):
            return float("nan")


def resample(score: Any, model: GivenAnswers, random_state: int) -> np.ndarray:
    """Return a score on resampled rows, (n_samples,)."""
    true, answers = model.true, model.answers
    if not isinstance(score, str):
        random, n = np.random.default_rng(random_state), len(true)
        samples = (random.integers(n, size=n) for _ in range(_N_BY_SCORER))
        return np.array([score_rows(score, model, rows) for rows in samples])
    drawing: Any = {"n_samples": _N_OWN, "random_state": random_state}
    if true.ndim == 2:
        _, drawn = label_set_scores(true, answers, **drawing)
    else:
        true, said = (positions(own.tolist(), model.classes)[0] for own in (true, model.labels))
        drawn = resampled_scores(true, said, answers.probability, answers.ranking, **drawing)
    return drawn.get(score, np.full(_N_OWN, np.nan))


class PairedDifference(NamedTuple):
    """A difference of two scores on the same texts, with its interval."""

    difference: float
    low: float
    high: float


def paired_difference(right: np.ndarray, right_of_other: np.ndarray) -> PairedDifference:
    """Return the difference of two accuracies with its 95 % interval.

    The interval holds the differences d that Tango's score test does not reject (1998, equations 5
    to 8), given that only the first has ``b`` texts right, and only the second ``c``. It keeps its
    level for few texts and for differences near 0 or 1 (Newcombe 1998).

    >>> right = np.array([True] * 90 + [False] * 10)
    >>> other = np.array([True] * 78 + [False] * 20 + [True] * 2)
    >>> [round(float(value), 3) for value in paired_difference(right, other)]
    [0.1, 0.031, 0.182]
    """
    right, other = np.asarray(right, dtype=bool), np.asarray(right_of_other, dtype=bool)
    if right.shape != other.shape or right.ndim != 1 or not len(right):
        raise ValueError(
            f"Found arrays of shapes {right.shape} and {other.shape}; expected two flat ones of "
            "the same length above 0."
        )
    n, b, c = len(right), int((right & ~other).sum()), int((other & ~right).sum())
    # the low end is the high end with the models exchanged
    return PairedDifference((b - c) / n, -_upper_bound(n, c, b), _upper_bound(n, b, c))


def _upper_bound(n: int, b: int, c: int) -> float:
    """Return the difference above which Tango's test rejects."""

    def score(d: float) -> float:
        q = -b - c + (2 * n - b + c) * d
        root = np.sqrt(max(q * q + 8 * n * c * d * (1 - d), 0.0))
        only_other = (root - q) / (4 * n)  # most likely share of c if d is true
        variance = n * (2 * only_other + d * (1 - d))
        return float((b - c - n * d) / np.sqrt(max(variance, 1e-300))) + _Z

    start, last = (b - c) / n, 1.0 - 1e-12
    if start < last and score(last) < 0:
        return float(brentq(score, start, last, xtol=1e-10))
    return 1.0
