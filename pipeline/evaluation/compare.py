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
from sklearn.metrics import get_scorer
from threadpoolctl import threadpool_limits

from pipeline._compat import rows_of
from pipeline.answers import Answers, ask, is_most_probable, positions, warn_of_other_labels
from pipeline.columns import reads_columns, text_column
from pipeline.embedding_cache import cache_info
from pipeline.evaluation.baselines import (
    ROWS,
    Candidate,
    bert_in,
    best_layers,
    cached_vectorizers,
    choose_rows,
    encode_all,
    make_candidates,
)
from pipeline.evaluation.evaluate import ask_label_sets, class_positions
from pipeline.evaluation.folds import Data, Fold, check_data, keep_groups, warn_of_leaking_folds
from pipeline.evaluation.metrics import (
    LOWER_IS_BETTER,
    GivenAnswers,
    PairedDifference,
    classification_scores,
    label_set_scores,
    paired_difference,
    resample,
    score_rows,
)
from pipeline.evaluation.shown import AttributedFrame
from pipeline.exceptions import TruncationWarning, UnknownTokensWarning
from pipeline.progress import Part, progress
from pipeline.vectorizer import BertVectorizer

_LONG_ENOUGH = 0.5  # seconds; shorter predictions are timed three times


class ColdCost(NamedTuple):
    """Cost of one fitted model, measured on a saved and loaded copy."""

    predict_seconds: float  # per 1,000 texts
    encode_seconds: float  # per text: copy minus fitted model, which has them cached
    artifact_mb: float  # of 1e6 bytes


UNKNOWN = ColdCost(math.nan, math.nan, math.nan)


def cold_cost(fitted: BaseEstimator, texts: np.ndarray) -> ColdCost:
    """Time the predictions of a saved and loaded model."""
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
    """Return the prediction time, the shortest of three if quick."""
    model.predict(texts[:1])
    times: list[float] = []
    while len(times) < 3 and sum(times) < _LONG_ENOUGH:
        start = time.perf_counter()
        model.predict(texts)
        times.append(time.perf_counter() - start)
    return min(times)


METRICS = (
    "accuracy",
    "macro_f1",
    "balanced_accuracy",
    "roc_auc",
    "log_loss",
    "calibration_error",
)
LABEL_SET_METRICS = (
    *("accuracy", "micro_f1", "macro_f1", "roc_auc"),
    *("log_loss", "calibration_error"),
)
_COLUMNS = {
    "f1_macro": "macro_f1",
    "f1_micro": "micro_f1",
    "roc_auc_ovr": "roc_auc",
    "neg_log_loss": "log_loss",
}
BASELINE = ROWS["tfidf"]


class RowResult(NamedTuple):
    """The result of one row."""

    scores: list[dict[str, float]]  # per fold, NaN for None
    right: np.ndarray  # (n_tested,), bool
    answers: list[GivenAnswers]  # per fold
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
    groups: Any = None,
    scoring: Any = "accuracy",
    vectorizer: BertVectorizer | None = None,
    word_vectors: Any = None,
    n_timed: int = 200,
    random_state: int = 0,
    n_jobs: int | None = None,
    text: str | None = None,
) -> AttributedFrame:
    """Compare baselines and uses of BERT on the same folds.

    Parameters
    ----------
    X : iterable of str, length n_texts, or DataFrame
        Texts, or several columns: your own estimators get all of them unless they start with a text
        vectorizer; the standard rows get the column ``text``.
    y : array-like of shape (n_texts,) or (n_texts, n_labels)
        Labels, or 1 and 0 for each of several labels per text. Then ``accuracy`` is the share of
        texts with all labels right, ``micro_f1`` replaces ``balanced_accuracy``, and the standard
        rows fit a classifier to each label (`OneVsRestClassifier`).
    model : estimator, optional
        Used for the row ``default``, or ``ngrams`` if it is a stack. Default:
        `make_sentiment_pipeline()`. Without ``models`` it is compared only with the majority class
        and TF-IDF.
    models : sequence, mapping or "all", optional
        The rows, in order: names of standard rows, and your own estimators as
        ``(name, estimator)``; or a mapping of name to estimator. TF-IDF is always included.
        Standard rows:

        - ``"majority"``: always the most frequent class;
        - ``"tfidf"``: TF-IDF of words and word pairs + LogisticRegression, the baseline;
        - ``"word2vec"``: mean word2vec vector, trained on the training texts +
          LogisticRegression (needs gensim);
        - ``"static"``: mean of BERT's layer 0, before any token sees another;
        - ``"cls"``: [CLS] of the last layer, frozen;
        - ``"default"``: the default pipeline, or ``model``;
        - ``"ngrams"``: ``make_sentiment_pipeline(ngrams=True)``, or ``model`` if it is a stack;
        - ``"layers"``: the best row of `layer_study`, chosen with its C within the training texts
          of every fold;
        - ``"finetuned"``: `FineTunedBertClassifier` with its defaults (needs accelerate).

        Default: all but the last two, which take minutes, and without word2vec if gensim is not
        installed. ``"all"`` is all nine.
    test : (X_test, y_test), optional
        Fit to all of X and score on these, instead of cross-validation.
    cv : int, splitter or iterable of (train, test), default=5
        The folds, unused with ``test``. A number means stratified and shuffled. No text may be
        tested twice.
    groups : array-like of shape (n_texts,), optional
        Texts of one group, such as one author's, stay on one side of every fold, including the
        folds inside rows that use cross-validation.
    scoring : str or callable, default="accuracy"
        The score behind the verdict: a scikit-learn scorer, such as ``"f1_macro"`` or
        ``"balanced_accuracy"``, or the name of a column. Classes are passed as 0, 1, ... in sorted
        order.
    vectorizer : BertVectorizer, optional
        Sets model, truncation, cache and so on of the BERT rows; its ``layers``, ``pooling`` and
        ``combine`` are ignored. Default: the one inside ``model``, or ``BertVectorizer()``.
    word_vectors : gensim KeyedVectors, str or Path, optional
        Vectors for the row ``word2vec``, instead of training them; see
        `pipeline.evaluation.word2vec.Word2VecVectorizer`.
    n_timed : int, default=200
        Most test texts to measure cold times on. 0 measures neither times nor sizes.
    random_state : int, default=0
        Seed of the folds, word2vec, fine-tuning and the choice of texts to time.
    n_jobs : int, optional
        Threads of the layer study. None is one, -1 all processors.
    text : str, optional
        The text column, needed if several columns of X hold strings.

    Returns
    -------
    AttributedFrame
        A DataFrame with one row per model, by name; shown rounded in a notebook, the best bold.
        ``accuracy``, ``macro_f1``, ``balanced_accuracy``, ``roc_auc``, ``log_loss`` and
        ``calibration_error`` (see `pipeline.evaluation.metrics.classification_scores`; NaN without
        probabilities), and a column for another ``scoring``: means over the folds; the same with
        ``_sd`` (standard deviation over the folds; NaN with ``test``);
        ``fit_seconds`` (mean over the folds), ``predict_seconds`` (per 1,000 texts),
        ``artifact_mb``; ``difference`` (accuracy minus that of TF-IDF, over all tested texts; the
        mean over the folds for another ``scoring``), ``difference_low`` and ``difference_high``
        (95 % interval); ``verdict``: ``"baseline"``, ``"better than TF-IDF"``, ``"worse than
        TF-IDF"``, ``"no clear difference"``, or ``"not scored"`` if ``scoring`` needs probabilities
        and the model has none.

        Attributes, also in ``attrs``:
        ``model`` (BERT's name), ``baseline`` (TF-IDF's row), ``classes``, ``n_texts``,
        ``n_tested``, ``n_folds`` (``"split"`` with ``test``), ``n_timed``, ``random_state``,
        ``scoring``, ``left_out`` (name to reason), ``never_predicted`` (name to tested classes that
        the row never predicts) and ``chosen`` (the layer study's choice in each fold, or None).

    Raises
    ------
    TypeError, ValueError
        For invalid parameters, texts or labels, before anything is encoded, and if a class is
        tested in a fold but not trained on.
    ImportError
        If a requested row needs a package that is not installed.

    Warns
    -----
    LeakWarning
        If test texts also occur in the training part of their fold.

    Notes
    -----
    **Interval.** Both models label the same texts, so only texts that one of them gets wrong
    distinguish them: Tango's score interval for paired proportions [1]_, over the texts of all
    folds; for another ``scoring``, a bootstrap of the test texts within each fold. It covers other
    test texts for these trained models, not other training texts: folds share most of theirs, and
    no unbiased estimate of that variance exists [2]_, [3]_. An interval that just misses 0 is weak
    evidence, and each row has its own 95 %: of twenty equal rows one is expected to miss 0.

    **Times.** The cache sends every text through BERT once for all rows, so times inside the folds
    would mislead. ``predict_seconds`` is measured on a saved and loaded copy of the first fold's
    model, without a cache. ``fit_seconds`` is the fitting time (with the choice of layers) plus
    that copy's encoding time for each distinct training text from the cache: an estimate of a first
    fit. Loading a model, and worker processes of your estimator's ``n_jobs``, are not counted. With
    ``n_timed=0`` all three costs are NaN, except ``fit_seconds`` of rows without a cache.

    References
    ----------
    .. [1] Tango, "Equivalence test and confidence interval for the difference in proportions for
       the paired-sample design", 1998.
    .. [2] Nadeau and Bengio, "Inference for the Generalization Error", 2003.
    .. [3] Bengio and Grandvalet, "No Unbiased Estimator of the Variance of K-Fold
       Cross-Validation", 2004.

    Examples
    --------
    >>> from pipeline import load_reviews
    >>> train, _ = load_reviews()
    >>> few = train[:60]
    >>> table = compare(few["text"], few["label"], models=["majority", "static"], cv=3)
    >>> list(table.index)
    ['TF-IDF + LogisticRegression', 'majority', 'static BERT (layer 0 mean)']
    >>> table["verdict"].iloc[0]
    'baseline'
    """
    X, test, frame = _take_columns(X, test, text)
    data = check_data(X, y, test, cv, groups, random_state)
    score = _check_scoring(scoring, data)
    bert = bert_in(model) if vectorizer is None else vectorizer
    if not isinstance(bert, BertVectorizer):
        raise TypeError(
            f"vectorizer is a {type(bert).__name__}; allowed is a BertVectorizer, or None for the "
            "default one."
        )
    if isinstance(n_timed, bool) or not isinstance(n_timed, int | np.integer) or n_timed < 0:
        raise ValueError(
            f"n_timed={n_timed!r}; allowed is a number of texts, or 0 to measure no times."
        )
    rows, left_out = choose_rows(models, model)
    folds = data.folds
    by_name = make_candidates(
        rows, bert, model, word_vectors, random_state, len(folds), label_sets=data.has_sets
    )
    tested = np.random.default_rng(random_state).permutation(folds[0][1].size)
    timed = folds[0][1][np.sort(tested[: int(n_timed)])]
    with progress(unit="fit", shown=bert.progress) as part:
        candidates, chosen = _with_folds(by_name, rows, bert, data, random_state, n_jobs)
        results = _results(candidates, list(rows), data, timed, frame, part)
    name = score if isinstance(score, str) else scoring if isinstance(scoring, str) else "score"
    table = _table(results, name, score, random_state, with_spread=len(folds) > 1)
    table.attrs = {
        "model": str(bert.model),
        "baseline": BASELINE,
        "classes": data.classes.tolist(),
        "n_texts": len(folds[0][0]) if test is not None else len(data.texts),
        "n_tested": sum(len(tested) for _, tested in folds),
        "n_folds": len(folds) if test is None else "split",
        "n_timed": len(timed),
        "random_state": random_state,
        "scoring": name,
        "never_predicted": _never_predicted(results, data),
        "left_out": left_out,
        "chosen": chosen,
    }
    return table


def _with_folds(
    candidates: dict[str, Candidate],
    rows: Iterable[str],
    bert: BertVectorizer,
    data: Data,
    random_state: int,
    n_jobs: int | None,
) -> tuple[list[Candidate], list[dict[str, Any]] | None]:
    """Return the rows with groups in inner folds and layers chosen."""
    folds, together, chosen = data.folds, data.groups, None
    if together is not None:
        parts = [(data.numbers[train], together[train], random_state) for train, _ in folds]
        candidates = {
            name: row._replace(
                by_fold=list(map(keep_groups, row.by_fold, *zip(*parts, strict=True)))
            )
            for name, row in candidates.items()
        }
    warn_of_leaking_folds(data.texts, folds, stacklevel=5)
    if "layers" in rows:
        candidates["layers"], chosen = best_layers(
            bert,
            data.texts,
            data.labels,
            folds,
            groups=together,
            random_state=random_state,
            n_jobs=n_jobs,
        )
    return [candidates[name] for name in rows], chosen


def _results(
    candidates: Sequence[Candidate],
    names: Sequence[str],
    data: Data,
    timed: np.ndarray,
    frame: pd.DataFrame | None,
    part: Part,
) -> dict[str, "RowResult"]:
    encode_all([candidate.by_fold[0] for candidate in candidates], data.texts, data.labels)
    # BLAS threads cost such fits more than they give; torch keeps its own
    with threadpool_limits(limits=1, user_api="blas"):
        return {
            candidate.name: _score_row(
                candidate,
                data,
                part.folds(data.folds, name, len(names)),
                timed,
                data.texts if frame is None or not reads_columns(candidate.by_fold[0]) else frame,
            )
            for name, candidate in zip(names, candidates, strict=True)
        }


def _take_columns(X: Any, test: Any, text: str | None) -> tuple[Any, Any, pd.DataFrame | None]:
    """Return texts, test, and the table if it has several columns."""
    if not isinstance(X, pd.DataFrame) or X.shape[1] < 2:
        return X, test, None
    column, frame = text_column(X, text), X
    if isinstance(test, tuple | list) and len(test) == 2:
        frame = pd.concat([X, test[0][list(X.columns)]])
        test = test[0][column], test[1]
    return X[column], test, frame.reset_index(drop=True)


def _check_scoring(scoring: Any, data: Data) -> Any:
    metrics = LABEL_SET_METRICS if data.has_sets else METRICS
    if isinstance(scoring, str) and (column := _COLUMNS.get(scoring, scoring)) in metrics:
        return column
    scorer: Any = get_scorer(scoring)
    numbers = data.numbers
    n_classes, rows = len(data.classes), np.arange(len(numbers))
    equal = Answers(numbers, np.full((len(numbers), n_classes), 1 / n_classes))
    scorer(GivenAnswers(range(n_classes), numbers, numbers, equal), rows, numbers)
    return scorer


def _score_row(
    candidate: Candidate, data: Data, folds: Iterable[Fold], timed: np.ndarray, X: Any
) -> RowResult:
    texts, labels = data.texts, data.labels
    scores, right, most_probable, seconds, from_cache = [], [], [], [], []
    given = []
    cost = UNKNOWN
    for fold, (train, tested) in enumerate(folds):
        estimator = clone(candidate.by_fold[fold])
        before, start = cache_info(), time.perf_counter()
        # truncation was already reported when filling the caches or in the first fold
        with silent_truncation(fold > 0 or bool(cached_vectorizers(estimator))):
            _fit(estimator, rows_of(X, train), labels[train], candidate.name)
        seconds.append(time.perf_counter() - start)
        after = cache_info()
        n_distinct = len(set(texts[train])) if after.hits > before.hits else 0
        from_cache.append(max(0, n_distinct - (after.texts_encoded - before.texts_encoded)))
        with silent_truncation():
            rows = rows_of(X, tested)
            if data.has_sets:
                answers = ask_label_sets(estimator, rows, len(data.classes))
            else:
                answers = ask(estimator, rows, need_probability=False)
            if fold == 0 and len(timed):
                cost = cold_cost(estimator, rows_of(X, timed))
        judged = (_judge_sets if data.has_sets else _judge)(estimator, data, tested, answers)
        scores.append(judged[0])
        right.append(judged[1])
        most_probable.append(judged[2])
        given.append(judged[3])
    # a first fit would have encoded the cached texts
    encoding = [n * cost.encode_seconds if n else 0.0 for n in from_cache]
    fit_seconds = float(np.mean(np.add(seconds, encoding))) + candidate.choice_seconds
    warn_of_other_labels(np.concatenate(most_probable), repr(candidate.name), stacklevel=5)
    return RowResult(scores, np.concatenate(right), given, fit_seconds, cost)


def _fit(estimator: Any, X: Any, y: np.ndarray, name: str) -> None:
    try:
        estimator.fit(X, y)
    except ValueError as error:
        if y.ndim == 2 and "1d array" in str(error):
            raise ValueError(
                f"{name!r} takes one label per text, but y holds {y.shape[1]}; wrap its classifier "
                "in OneVsRestClassifier or MultiOutputClassifier."
            ) from error
        raise


Judgement = tuple[dict[str, float], np.ndarray, np.ndarray, GivenAnswers]


def _judge(estimator: Any, data: Data, tested: np.ndarray, answers: Answers) -> Judgement:
    """Return scores, whether each text is right, and the answers."""
    known = np.asarray(estimator.classes_).tolist()
    true = class_positions(len(tested), data.labels[tested], known)
    predicted, _ = positions(answers.labels, known)
    values = classification_scores(true, predicted, answers.probability, answers.ranking)
    scores = {name: np.nan if (value := values[name]) is None else value for name in METRICS}
    classes = data.classes.tolist()
    known_numbers, guessed = (positions(own, classes)[0] for own in (known, answers.labels))
    given = GivenAnswers(known_numbers.tolist(), data.numbers[tested], guessed, answers)
    probable = is_most_probable(predicted, answers.probability)
    return scores, predicted == true, probable, given


def _judge_sets(estimator: Any, data: Data, tested: np.ndarray, answers: Answers) -> Judgement:
    """Return the same for several labels per text."""
    true = data.numbers[tested]
    values, _ = label_set_scores(true, answers)
    scores = {n: np.nan if (value := values[n]) is None else value for n in LABEL_SET_METRICS}
    given = GivenAnswers(range(len(data.classes)), true, answers.labels, answers)
    right = (true == answers.labels).all(axis=1)
    return scores, right, np.ones(len(tested), dtype=bool), given


@contextmanager
def silent_truncation(silent: bool = True) -> Iterator[None]:
    """Ignore truncation warnings that were given before."""
    with warnings.catch_warnings():
        if silent:
            warnings.simplefilter("ignore", TruncationWarning)
            warnings.simplefilter("ignore", UnknownTokensWarning)
        yield


def _table(
    results: Mapping[str, RowResult],
    scoring: str,
    score: Any,
    random_state: int,
    *,
    with_spread: bool,
) -> AttributedFrame:
    rows = {}
    for result in results.values():
        for values, given in zip(result.scores, result.answers, strict=True):
            if scoring not in values:
                values[scoring] = score_rows(score, given, np.arange(len(given.true)))
    metrics = list(results[BASELINE].scores[0])
    baseline, drawn = results[BASELINE], {}
    if scoring != "accuracy":
        drawn = {
            name: np.mean(
                [resample(score, given, random_state) for given in result.answers], axis=0
            )
            for name, result in results.items()
        }
    for name, result in results.items():
        scores = np.array([list(of_fold.values()) for of_fold in result.scores])
        means = scores.mean(axis=0)
        spreads = scores.std(axis=0, ddof=1) if with_spread else np.full(len(metrics), np.nan)
        difference = PairedDifference(0.0, 0.0, 0.0)
        if name != BASELINE and scoring == "accuracy":
            difference = paired_difference(result.right, baseline.right)
        elif name != BASELINE:
            sign = -1 if scoring in LOWER_IS_BETTER else 1
            place = metrics.index(scoring)
            found = sign * (means[place] - np.mean([row[scoring] for row in baseline.scores]))
            sampled = drawn[name] - drawn[BASELINE]
            sampled = sampled[np.isfinite(sampled)]
            low, high = np.percentile(sampled, [2.5, 97.5]) if len(sampled) else (np.nan,) * 2
            difference = PairedDifference(float(found), float(low), float(high))
        rows[name] = {
            **dict(zip(metrics, means.tolist(), strict=True)),
            **dict(zip((f"{metric}_sd" for metric in metrics), spreads.tolist(), strict=True)),
            "fit_seconds": result.fit_seconds,
            "predict_seconds": result.cost.predict_seconds,
            "artifact_mb": result.cost.artifact_mb,
            "difference": difference.difference,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "verdict": "baseline" if name == BASELINE else _verdict(difference),
        }
    return AttributedFrame.from_dict(rows, orient="index")


def _verdict(difference: PairedDifference) -> str:
    if np.isnan(difference.low):
        return "not scored"
    if difference.low > 0:
        return "better than TF-IDF"
    return "worse than TF-IDF" if difference.high < 0 else "no clear difference"


def _never_predicted(results: Mapping[str, RowResult], data: Data) -> dict[str, list[Any]]:
    """Return the tested classes that each row but the majority never predicts."""
    found = {}
    for name, result in results.items():
        tested = np.concatenate([given.true for given in result.answers])
        predicted = np.concatenate([given.labels for given in result.answers])
        if data.has_sets:
            tested, predicted = (np.nonzero(table)[1] for table in (tested, predicted))
        if name != ROWS["majority"] and (missing := np.setdiff1d(tested, predicted)).size:
            found[name] = data.classes[missing].tolist()
    return found
