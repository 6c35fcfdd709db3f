"""Compare baselines and uses of BERT on the same folds, each against TF-IDF."""

import math
import pickle
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import StratifiedKFold, check_cv

from pipeline.answers import ask, is_most_probable, positions, warn_of_other_labels
from pipeline.embedding_cache import cache_info
from pipeline.evaluation.baselines import (
    ROWS,
    Candidate,
    Fold,
    bert_in,
    best_layers,
    cached_vectorizers,
    choose_rows,
    encode_all,
    make_candidates,
)
from pipeline.evaluation.evaluate import class_positions
from pipeline.evaluation.metrics import PairedDifference, classification_scores, paired_difference
from pipeline.exceptions import TruncationWarning
from pipeline.texts import check_texts, class_numbers
from pipeline.vectorizer import BertVectorizer

_LONG_ENOUGH = 0.5  # seconds: what takes less is measured three times


class ColdCost(NamedTuple):
    """Cost of one fitted model.

    Attributes
    ----------
    predict_seconds : float
        Per 1,000 texts, by a copy that was saved and loaded: it caches nothing.
    encode_seconds : float
        Per text: what the same texts cost more there than in the fitted model, whose cache has them.
    artifact_mb : float
        Size of the joblib file, in MB of 1e6 bytes.
    """

    predict_seconds: float
    encode_seconds: float
    artifact_mb: float


UNKNOWN = ColdCost(math.nan, math.nan, math.nan)


def cold_cost(fitted: BaseEstimator, texts: np.ndarray) -> ColdCost:
    """Save a fitted model, load it, and time its predictions.

    Parameters
    ----------
    fitted : estimator
        A BertVectorizer in it has the texts in its cache, or no cache.
    texts : ndarray of str, shape (n_texts,), object
        What to predict; one text or more.

    Returns
    -------
    ColdCost
        All NaN for a model that cannot be pickled.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.joblib"
        try:
            joblib.dump(fitted, path)
        except (pickle.PicklingError, AttributeError, TypeError):
            return UNKNOWN
        size = path.stat().st_size
        copy: Any = joblib.load(path)
    cold, warm = _seconds(copy, texts), _seconds(fitted, texts)
    return ColdCost(1000 * cold / len(texts), max(0.0, cold - warm) / len(texts), size / 1e6)


def _seconds(model: Any, texts: np.ndarray) -> float:
    """Return how long predicting takes; the shortest of three times where it is quick. What is loaded once does not count."""
    model.predict(texts[:1])
    times: list[float] = []
    while len(times) < 3 and sum(times) < _LONG_ENOUGH:
        start = time.perf_counter()
        model.predict(texts)
        times.append(time.perf_counter() - start)
    return min(times)


METRICS = ("accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error")
BASELINE = ROWS["tfidf"]


class RowResult(NamedTuple):
    """What one candidate did: the scores of every fold, whether it was right on each tested text, and what it cost."""

    scores: list[dict[str, float]]
    right: np.ndarray  # (n_tested,)
    fit_seconds: float
    cost: ColdCost


def compare(
    X: Any,
    y: Any,
    *,
    model: BaseEstimator | None = None,
    models: str
    | Mapping[str, BaseEstimator]
    | Iterable[str | tuple[str, BaseEstimator]]
    | None = None,
    test: tuple[Any, Any] | None = None,
    cv: Any = 5,
    vectorizer: BertVectorizer | None = None,
    word_vectors: Any = None,
    n_timed: int = 200,
    random_state: int = 0,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Score baselines and uses of BERT on the same folds, or on the same test texts, and hold each against TF-IDF.

    Parameters
    ----------
    X : iterable of str, length n_texts
        Texts.
    y : array-like of shape (n_texts,)
        Labels.
    model : estimator, optional
        What the row ``default`` is; `make_sentiment_pipeline()` by default. Given without ``models``, it is compared with the
        majority class and TF-IDF alone.
    models : sequence, mapping or "all", optional
        The rows, in this order: names of standard rows, and your own estimators as ``(name, estimator)``; or a mapping of name to
        estimator. TF-IDF is always among them. Standard rows:

        - ``"majority"``: always the most frequent class;
        - ``"tfidf"``: TF-IDF of words and word pairs + LogisticRegression, the baseline;
        - ``"word2vec"``: mean word2vec vector, trained on the training texts + LogisticRegression (needs gensim);
        - ``"static"``: mean of BERT's layer 0, before any token sees another;
        - ``"cls"``: [CLS] of the last layer, frozen;
        - ``"default"``: the default pipeline, or ``model``;
        - ``"layers"``: the best row of `layer_study`, chosen with its C within the training texts of every fold;
        - ``"finetuned"``: `FineTunedBertClassifier` with its defaults (needs accelerate).

        By default all but the last two, which take minutes where the others take seconds; word2vec is then left out where gensim
        is not installed. ``"all"`` is all eight.
    test : (X_test, y_test), optional
        Fit to all of X and score on these, instead of cross-validation.
    cv : int, splitter or iterable of (train, test), default=5
        The folds, unused with ``test``. A number means stratified and shuffled. No text may be tested twice.
    vectorizer : BertVectorizer, optional
        Whose model, truncation, cache and so on the BERT rows have; its ``layers``, ``pooling`` and ``combine`` are not used. By
        default the one inside ``model``, or ``BertVectorizer()``.
    word_vectors : gensim KeyedVectors, str or Path, optional
        Vectors for the row ``word2vec``, instead of training them; a path as in
        `pipeline.evaluation.word2vec.Word2VecVectorizer`.
    n_timed : int, default=200
        How many test texts the cold times are measured on, at most. 0 measures neither times nor sizes.
    random_state : int, default=0
        Of the folds, of word2vec, of fine-tuning and of the texts timed.
    n_jobs : int, optional
        Threads of the layer study. None is one, -1 all processors.

    Returns
    -------
    DataFrame
        One row per model, by name. ``accuracy``, ``macro_f1``, ``roc_auc``, ``log_loss``, ``calibration_error`` (see
        `pipeline.evaluation.metrics.classification_scores`; means over the folds), the same with ``_sd`` (standard deviation over
        the folds; NaN with ``test``); ``fit_seconds`` (mean over the folds), ``predict_seconds`` (per 1,000 texts),
        ``artifact_mb``; ``difference`` (accuracy minus that of TF-IDF, over all tested texts), ``difference_low`` and
        ``difference_high`` (95 % interval), ``verdict``: ``"baseline"``, ``"better than TF-IDF"``, ``"worse than TF-IDF"`` or
        ``"no clear difference"``. ``attrs``: ``model`` (BERT's name), ``baseline`` (TF-IDF's row), ``classes``, ``n_texts``,
        ``n_tested``, ``n_folds`` (``"split"`` with ``test``), ``n_timed``, ``random_state``, ``left_out`` (name to reason) and
        ``chosen`` (what the layer study chose in each fold, or None).

    Raises
    ------
    TypeError, ValueError
        For wrong parameters, texts or labels, before anything is encoded.
    ImportError
        Where a row that was asked for needs a package that is not installed.

    Notes
    -----
    **Interval.** Both models answer the same texts, so only those on which one of them errs tell them apart: Tango's score
    interval for paired proportions [1]_, over the texts of all folds, each of which was tested once. It says how far the
    difference could be off with other texts, for models trained as these were. It does not contain what other training texts
    would change; folds share most of theirs, and no unbiased estimate of that variance exists [2]_, [3]_. An interval that just
    misses 0 is weak evidence, and each row has its own 95 %: of twenty rows that are worth the same one is expected to miss it.

    **Times.** Within the folds the cache sends every text through BERT once for all rows together: times measured there would be
    lies. ``predict_seconds`` is that of a copy of the first fold's model, saved and loaded: it caches nothing. ``fit_seconds`` is
    the time of fitting, plus, for each distinct training text that the cache had, what encoding took per text in that copy: an
    estimate of a first fit. Choosing layers counts as fitting. Processes of ``n_jobs`` inside an estimator of yours are not
    counted, and loading a model is in none of these times. ``artifact_mb`` is the size of the joblib file. With ``n_timed=0`` all
    three are NaN, but ``fit_seconds`` where no cache helped.

    References
    ----------
    .. [1] Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design", 1998.
    .. [2] Nadeau and Bengio, "Inference for the Generalization Error", 2003.
    .. [3] Bengio and Grandvalet, "No Unbiased Estimator of the Variance of K-Fold Cross-Validation", 2004.

    Examples
    --------
    >>> from pipeline import load_reviews
    >>> train, _ = load_reviews()
    >>> table = compare(train["text"][:60], train["label"][:60], models=["majority", "static"], cv=3)
    >>> list(table.index)
    ['TF-IDF + LogisticRegression', 'majority', 'static BERT (layer 0 mean)']
    >>> table["verdict"].iloc[0]
    'baseline'
    """
    texts, labels, classes, folds = _check_data(X, y, test, cv, random_state)
    bert = bert_in(model) if vectorizer is None else vectorizer
    if not isinstance(bert, BertVectorizer):
        raise TypeError(
            f"vectorizer is a {type(bert).__name__}; allowed is a BertVectorizer, or None for the default one."
        )
    if isinstance(n_timed, bool) or not isinstance(n_timed, int | np.integer) or n_timed < 0:
        raise ValueError(
            f"n_timed={n_timed!r}; allowed is a number of texts, or 0 to measure no times."
        )
    rows, left_out = choose_rows(models, model)
    made = make_candidates(rows, bert, model, word_vectors, random_state, len(folds))

    chosen = None
    if "layers" in rows:
        made["layers"], chosen = best_layers(
            bert, texts, labels, folds, random_state=random_state, n_jobs=n_jobs
        )
    encode_all([made[name].by_fold[0] for name in rows], texts, labels)
    timed = _choose_timed(folds[0][1], int(n_timed), random_state)
    results = {
        made[name].name: _score_row(made[name], texts, labels, folds, timed) for name in rows
    }
    table = _table(results, with_spread=test is None)
    table.attrs = {
        "model": str(bert.model),
        "baseline": BASELINE,
        "classes": classes.tolist(),
        "n_texts": len(folds[0][0]) if test is not None else len(texts),
        "n_tested": sum(len(tested) for _, tested in folds),
        "n_folds": len(folds) if test is None else "split",
        "n_timed": len(timed),
        "random_state": random_state,
        "left_out": left_out,
        "chosen": chosen,
    }
    return table


# ---- the texts


def _check_data(
    X: Any, y: Any, test: tuple[Any, Any] | None, cv: Any, random_state: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Fold]]:
    """Return texts (those of the test behind the others), labels, classes, and the rows that each fold trains and tests on."""
    texts = check_texts(X)
    classes, numbers = class_numbers(y, len(texts))
    if test is None:
        folds = _folds(cv, numbers, random_state)
        return np.array(texts, dtype=object), classes[numbers], classes, folds
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise TypeError(f"test is a {type(test).__name__}; allowed is a pair, (X_test, y_test).")
    tested, expected = check_texts(test[0]), list(test[1])
    if len(tested) != len(expected) or not tested:
        raise ValueError(
            f"test holds {len(tested)} texts and {len(expected)} labels; it needs one label per text, and some texts."
        )
    position = {
        str(label): i for i, label in enumerate(classes.tolist())
    }  # labels of a file are text, as in `evaluate`
    unknown = sorted({str(label) for label in expected} - set(position))
    if unknown:
        raise ValueError(
            f"test holds labels that are not in y: {', '.join(map(repr, unknown))}; y has {', '.join(map(repr, position))}."
        )
    numbers = np.concatenate([numbers, [position[str(label)] for label in expected]])
    rows = np.arange(len(texts) + len(tested))
    return (
        np.array(texts + tested, dtype=object),
        classes[numbers],
        classes,
        [(rows[: len(texts)], rows[len(texts) :])],
    )


def _folds(cv: Any, numbers: np.ndarray, random_state: int) -> list[Fold]:
    if isinstance(cv, int | np.integer):
        cv = StratifiedKFold(int(cv), shuffle=True, random_state=random_state)
    splitter = check_cv(cv, numbers, classifier=True)
    folds = [
        (np.asarray(train), np.asarray(tested))
        for train, tested in splitter.split(np.zeros(len(numbers)), numbers)
    ]
    every = np.concatenate([tested for _, tested in folds])
    if len(np.unique(every)) < len(every) or any(
        np.isin(tested, train).any() or not len(tested) for train, tested in folds
    ):
        raise ValueError(
            "cv tests some text twice, tests one that it trains on, or tests none in a fold: intervals would be wrong. Use "
            "disjoint folds, such as cv=5 or StratifiedKFold."
        )
    return folds


def _choose_timed(tested: np.ndarray, n_timed: int, random_state: int) -> np.ndarray:
    few = np.random.default_rng(random_state).permutation(len(tested))[:n_timed]
    return np.asarray(tested[np.sort(few)])


# ---- one row


def _score_row(
    candidate: Candidate,
    texts: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[Fold],
    timed: np.ndarray,
) -> RowResult:
    """Fit a candidate to every fold and score it; measure its cost on the first one."""
    scores, right, most_probable, seconds, from_cache = [], [], [], [], []
    cost = UNKNOWN
    for fold, (train, tested) in enumerate(folds):
        estimator = clone(candidate.by_fold[fold])
        before, start = cache_info(), time.perf_counter()
        with _told_once(fold > 0 or bool(cached_vectorizers(estimator))):
            estimator.fit(texts[train], labels[train])
        seconds.append(time.perf_counter() - start)
        after = cache_info()
        n_distinct = len(set(texts[train])) if after.hits > before.hits else 0
        from_cache.append(max(0, n_distinct - (after.texts_encoded - before.texts_encoded)))
        with _told_once(True):
            answers = ask(estimator, texts[tested])
        classes = np.asarray(estimator.classes_).tolist()
        true, (predicted, _) = (
            class_positions(len(tested), labels[tested], classes),
            positions(answers.labels, classes),
        )
        found = classification_scores(true, predicted, answers.probability)
        scores.append(
            {
                metric: np.nan if (value := found[metric]) is None else float(value)
                for metric in METRICS
            }
        )
        right.append(predicted == true)
        most_probable.append(is_most_probable(predicted, answers.probability))
        if fold == 0 and len(timed):
            with _told_once(True):
                cost = cold_cost(estimator, texts[timed])
    # of texts that came out of the cache, a first fit would have had to encode every one
    encoding = [n * cost.encode_seconds if n else 0.0 for n in from_cache]
    fit_seconds = float(np.mean(np.add(seconds, encoding))) + candidate.choice_seconds
    warn_of_other_labels(np.concatenate(most_probable), repr(candidate.name), stacklevel=5)
    return RowResult(scores, np.concatenate(right), fit_seconds, cost)


@contextmanager
def _told_once(told: bool) -> Iterator[None]:
    """Be silent of what truncation cuts where that was told before: in filling the caches, or in the first fold."""
    with warnings.catch_warnings():
        if told:
            warnings.simplefilter("ignore", TruncationWarning)
        yield


# ---- the table


def _table(results: Mapping[str, RowResult], *, with_spread: bool) -> pd.DataFrame:
    rows = {}
    for name, of_row in results.items():
        scores = pd.DataFrame(of_row.scores).to_numpy()  # (n_folds, n_metrics)
        means = scores.mean(axis=0)  # NaN where a fold has none
        spreads = scores.std(axis=0, ddof=1) if with_spread else np.full(len(METRICS), np.nan)
        row: dict[str, Any] = {
            metric: float(mean) for metric, mean in zip(METRICS, means, strict=True)
        }
        row |= {
            f"{metric}_sd": float(spread) for metric, spread in zip(METRICS, spreads, strict=True)
        }
        row |= {
            "fit_seconds": of_row.fit_seconds,
            "predict_seconds": of_row.cost.predict_seconds,
            "artifact_mb": of_row.cost.artifact_mb,
        }
        found = paired_difference(of_row.right, results[BASELINE].right)
        if name == BASELINE:
            found = PairedDifference(0.0, 0.0, 0.0)
        row |= {
            "difference": found.difference,
            "difference_low": found.low,
            "difference_high": found.high,
        }
        rows[name] = row | {"verdict": "baseline" if name == BASELINE else _verdict(found)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _verdict(found: PairedDifference) -> str:
    if found.low > 0:
        return "better than TF-IDF"
    return "worse than TF-IDF" if found.high < 0 else "no clear difference"
