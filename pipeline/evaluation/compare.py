"""Compare baselines and uses of BERT on the same folds, each against TF-IDF."""

import math
import pickle
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
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
    Models,
    bert_in,
    best_layers,
    cached_vectorizers,
    choose_rows,
    encode_all,
    make_candidates,
)
from pipeline.evaluation.evaluate import ask_label_sets, class_positions
from pipeline.evaluation.failures import silent_truncation
from pipeline.evaluation.folds import Data, Fold, check_data, keep_groups, warn_of_leaking_folds
from pipeline.evaluation.metrics import (
    GivenAnswers,
    PairedDifference,
    classification_scores,
    intervals_of,
    label_set_scores,
    paired_difference,
    resample,
    score_rows,
)
from pipeline.evaluation.shown import AttributedFrame
from pipeline.progress import progress
from pipeline.vectorizer import BertVectorizer

_LONG_ENOUGH = 0.5  # seconds; shorter predictions are timed three times


class ColdCost(NamedTuple):
    """Cost of a fitted model, measured on a saved and loaded copy."""

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


METRICS = "accuracy macro_f1 balanced_accuracy roc_auc log_loss calibration_error".split()
LABEL_SET_METRICS = "accuracy micro_f1 macro_f1 roc_auc log_loss calibration_error".split()
_LOWER_IS_BETTER = ("log_loss", "calibration_error")
_COLUMNS = {
    "f1_macro": "macro_f1",
    "f1_micro": "micro_f1",
    "roc_auc_ovr": "roc_auc",
    "neg_log_loss": "log_loss",
}
BASELINE = ROWS["tfidf"]


class RowResult(NamedTuple):
    """The result of one row."""

    scores: Sequence[dict[str, float | None]]  # per fold
    right: np.ndarray  # (n_tested,), bool
    answers: Sequence[GivenAnswers]  # per fold
    fit_seconds: float
    cost: ColdCost


def compare(
    X: Any,
    y: Any,
    *,
    model: BaseEstimator | None = None,
    models: Models = None,
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
        The row ``default``, or ``ngrams`` if it is a stack. Without ``models`` it is compared only
        with the majority class and TF-IDF.
    models : sequence, mapping or "all", optional
        The rows, in order: names of standard rows and your own ``(name, estimator)``, or a mapping
        of name to estimator. TF-IDF is always included. Standard rows:

        - ``"majority"``: the most frequent class;
        - ``"tfidf"``: TF-IDF of words and word pairs + LogisticRegression, the baseline;
        - ``"word2vec"``: mean word2vec vector + LogisticRegression (needs gensim);
        - ``"static"``: mean of BERT's layer 0, before any token sees another;
        - ``"cls"``: frozen [CLS] of the last layer;
        - ``"default"``: `make_sentiment_pipeline()`, or ``model``;
        - ``"ngrams"``: ``make_sentiment_pipeline(ngrams=True)``, or ``model``;
        - ``"layers"``: the best row of `layer_study`, chosen with its C inside every fold;
        - ``"finetuned"``: `FineTunedBertClassifier` (needs accelerate).

        Default: all but the last two, which take minutes, and word2vec only with gensim.
        ``"all"`` is all nine.
    test : (X_test, y_test), optional
        Fit to all of X and score on these, instead of cross-validation.
    cv : int, splitter or iterable of (train, test), default=5
        The folds, which test no text twice. A number means stratified and shuffled.
    groups : array-like of shape (n_texts,), optional
        Texts of one group, such as one author's, stay on one side of every fold, inner ones too.
    scoring : str or callable, default="accuracy"
        The score behind the verdict: a scikit-learn scorer, such as ``"f1_macro"``, or a column.
        Classes are passed as 0, 1, ... in sorted order.
    vectorizer : BertVectorizer, optional
        Sets all of the BERT rows but ``layers``, ``pooling`` and ``combine``. Default: the one
        inside ``model``, or ``BertVectorizer()``.
    word_vectors : gensim KeyedVectors, str or Path, optional
        Replaces training in the row ``word2vec``; see
        `pipeline.evaluation.word2vec.Word2VecVectorizer`.
    n_timed : int, default=200
        Most test texts to measure cold times on; 0 measures neither times nor sizes.
    random_state : int, default=0
        Seed of the folds, training and the choice of texts to time.
    n_jobs : int, optional
        Threads of the layer study. None is one, -1 all processors.
    text : str, optional
        The text column, needed if several columns of X hold strings.

    Returns
    -------
    AttributedFrame
        A DataFrame with one row per model, by name; shown rounded in a notebook, the best bold.
        Means over the folds: ``accuracy``, ``macro_f1``, ``balanced_accuracy``, ``roc_auc``,
        ``log_loss``, ``calibration_error`` (see
        `pipeline.evaluation.metrics.classification_scores`; NaN without probabilities) and another
        ``scoring``; the same with ``_sd`` (standard deviation; NaN with ``test``);
        ``fit_seconds``, ``predict_seconds`` (per 1,000 texts), ``artifact_mb``;
        ``difference`` (accuracy minus that of TF-IDF, over all tested texts; the mean over the
        folds for another ``scoring``), ``difference_low`` and ``difference_high`` (95 % interval);
        ``verdict``: ``"baseline"``, ``"better than TF-IDF"``, ``"worse than TF-IDF"``, ``"no clear
        difference"``, or ``"not scored"`` if ``scoring`` needs probabilities that the model lacks.

        Attributes, also in ``attrs``:
        ``model`` (BERT's name), ``baseline`` (TF-IDF's row), ``classes``, ``n_texts``,
        ``n_tested``, ``n_folds`` (``"split"`` with ``test``), ``n_timed``, ``random_state``,
        ``scoring``, ``left_out`` (name to reason), ``never_predicted`` (name to tested classes) and
        ``chosen`` (the layer study's choice in each fold, or None).

    Raises
    ------
    TypeError, ValueError
        For invalid parameters, texts or labels, and a class that a fold tests but does not train
        on; before anything is encoded.
    ImportError
        If a requested row needs a package that is not installed.

    Warns
    -----
    LeakWarning
        If test texts also occur in the training part of their fold.

    Notes
    -----
    **Interval.** Tango's score interval for paired proportions [1]_, over the texts of all folds;
    for another ``scoring``, a bootstrap of the test texts within each fold. It covers other test
    texts for these trained models, not other training texts: folds share most of theirs, and no
    unbiased estimate of that variance exists [2]_, [3]_. An interval that just misses 0 is weak
    evidence: of twenty equal rows one is expected to.

    **Times.** The cache sends every text through BERT once for all rows. ``predict_seconds`` is
    therefore measured on a saved and loaded copy of the first fold's model, without a cache.
    ``fit_seconds`` is the fitting time (with the choice of layers) plus that copy's encoding time
    for each distinct training text from the cache: an estimate of a first fit. Loading a model, and
    worker processes of your estimator's ``n_jobs``, are not counted. With ``n_timed=0`` all three
    costs are NaN, except ``fit_seconds`` of rows without a cache.

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
    metrics = LABEL_SET_METRICS if data.has_sets else METRICS
    name, score = _check_scoring(scoring, data, metrics)
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
        encode_all([candidate.by_fold[0] for candidate in candidates], data.texts, data.labels)
        results = {}
        # BLAS threads cost such fits more than they give; torch keeps its own
        with threadpool_limits(limits=1, user_api="blas"):
            for row, candidate in zip(rows, candidates, strict=True):
                parts = part.folds(data.folds, row, len(rows))
                results[candidate.name] = _score_row(candidate, data, parts, timed, frame)
    table = _table(results, metrics, name, score, random_state)
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
    if (groups := data.groups) is not None:
        parts = [(data.numbers[train], groups[train], random_state) for train, _ in data.folds]
        for name, row in candidates.items():
            own = zip(row.by_fold, parts, strict=True)
            candidates[name] = row._replace(by_fold=[keep_groups(one, *part) for one, part in own])
    warn_of_leaking_folds(data.texts, data.folds, stacklevel=5)
    chosen = None
    if "layers" in rows:
        candidates["layers"], chosen = best_layers(bert, data, random_state, n_jobs)
    return [candidates[name] for name in rows], chosen


def _take_columns(X: Any, test: Any, text: str | None) -> tuple[Any, Any, pd.DataFrame | None]:
    """Return texts, test, and the table if it has several columns."""
    if not isinstance(X, pd.DataFrame) or X.shape[1] < 2:
        return X, test, None
    column, frame = text_column(X, text), X
    if isinstance(test, tuple | list) and len(test) == 2:
        frame = pd.concat([X, test[0][list(X.columns)]])
        test = test[0][column], test[1]
    return X[column], test, frame.reset_index(drop=True)


def _check_scoring(scoring: Any, data: Data, metrics: list[str]) -> tuple[str, Any]:
    """Return the column's name, and a scorer unless the column is one of ours."""
    if isinstance(scoring, str) and (column := _COLUMNS.get(scoring, scoring)) in metrics:
        return column, column
    scorer: Any = get_scorer(scoring)
    numbers = data.numbers
    n_classes, rows = len(data.classes), np.arange(len(numbers))
    equal = Answers(numbers, np.full((len(numbers), n_classes), 1 / n_classes))
    scorer(GivenAnswers(range(n_classes), numbers, numbers, equal), rows, numbers)
    return scoring if isinstance(scoring, str) else "score", scorer


def _score_row(
    candidate: Candidate,
    data: Data,
    folds: Iterable[Fold],
    timed: np.ndarray,
    frame: pd.DataFrame | None,
) -> RowResult:
    texts, labels = data.texts, data.labels
    X = texts if frame is None or not reads_columns(candidate.by_fold[0]) else frame
    judge = _judge_sets if data.has_sets else _judge
    judgements, seconds, cost = [], [], UNKNOWN
    for fold, (train, tested) in enumerate(folds):
        estimator = clone(candidate.by_fold[fold])
        before, start = cache_info(), time.perf_counter()
        # truncation was already reported when filling the caches or in the first fold
        with silent_truncation(fold > 0 or bool(cached_vectorizers(estimator))):
            _fit(estimator, rows_of(X, train), labels[train], candidate.name)
        spent = time.perf_counter() - start
        after = cache_info()
        with silent_truncation():
            judgements.append(judge(estimator, data, tested, rows_of(X, tested)))
            if fold == 0 and len(timed):
                cost = cold_cost(estimator, rows_of(X, timed))
        # a first fit would have encoded the cached texts
        n_distinct = len(set(texts[train])) if after.hits > before.hits else 0
        from_cache = max(0, n_distinct - (after.texts_encoded - before.texts_encoded))
        seconds.append(spent + (from_cache * cost.encode_seconds if from_cache else 0.0))
    scores, right, most_probable, given = zip(*judgements, strict=True)
    fit_seconds = float(np.mean(seconds)) + candidate.choice_seconds
    warn_of_other_labels(np.concatenate(most_probable), repr(candidate.name), stacklevel=4)
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


Judgement = tuple[dict[str, float | None], np.ndarray, np.ndarray, GivenAnswers]


def _judge(estimator: Any, data: Data, tested: np.ndarray, X: Any) -> Judgement:
    """Return scores, whether each text is right and most probable, and the answers."""
    answers = ask(estimator, X, need_probability=False)
    known = np.asarray(estimator.classes_).tolist()
    true = class_positions(len(tested), data.labels[tested], known)
    predicted, _ = positions(answers.labels, known)
    scores = classification_scores(true, predicted, answers.probability, answers.ranking)
    classes = data.classes.tolist()
    known_numbers, guessed = (positions(own, classes)[0] for own in (known, answers.labels))
    given = GivenAnswers(known_numbers.tolist(), data.numbers[tested], guessed, answers)
    return scores, predicted == true, is_most_probable(predicted, answers.probability), given


def _judge_sets(estimator: Any, data: Data, tested: np.ndarray, X: Any) -> Judgement:
    """Return the same for several labels per text."""
    true, n_labels = data.numbers[tested], len(data.classes)
    answers = ask_label_sets(estimator, X, n_labels)
    given = GivenAnswers(range(n_labels), true, answers.labels, answers)
    right = (true == answers.labels).all(axis=1)
    return label_set_scores(true, answers)[0], right, np.ones(len(tested), dtype=bool), given


def _table(
    results: Mapping[str, RowResult],
    metrics: list[str],
    scoring: str,
    score: Any,
    random_state: int,
) -> AttributedFrame:
    if scoring not in metrics:
        metrics = [*metrics, scoring]
        for result in results.values():
            for values, given in zip(result.scores, result.answers, strict=True):
                values[scoring] = score_rows(score, given, np.arange(len(given.true)))
    scores = {
        name: np.array([[of_fold[m] for m in metrics] for of_fold in result.scores], dtype=float)
        for name, result in results.items()
    }
    place, sign = metrics.index(scoring), -1 if scoring in _LOWER_IS_BETTER else 1
    drawn = {}
    if scoring != "accuracy":
        drawn = {
            name: np.mean(
                [resample(score, given, random_state) for given in result.answers], axis=0
            )
            for name, result in results.items()
        }
    rows = {}
    for name, result in results.items():
        means = scores[name].mean(axis=0)
        spreads = np.full(len(metrics), np.nan)
        if len(scores[name]) > 1:
            spreads = scores[name].std(axis=0, ddof=1)
        difference = PairedDifference(0.0, 0.0, 0.0)
        if name != BASELINE and scoring == "accuracy":
            difference = paired_difference(result.right, results[BASELINE].right)
        elif name != BASELINE:
            found = sign * (means[place] - scores[BASELINE][:, place].mean())
            interval = intervals_of({name: sign * (drawn[name] - drawn[BASELINE])})[name]
            difference = PairedDifference(float(found), *(interval or [np.nan, np.nan]))
        rows[name] = {
            **dict(zip(metrics, means, strict=True)),
            **dict(zip((f"{metric}_sd" for metric in metrics), spreads, strict=True)),
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
    """Return tested classes that a row never predicts, without the majority's."""
    found = {}
    for name, result in results.items():
        tested = np.concatenate([given.true for given in result.answers])
        predicted = np.concatenate([given.labels for given in result.answers])
        if data.has_sets:
            tested, predicted = (np.nonzero(table)[1] for table in (tested, predicted))
        if name != ROWS["majority"] and (missing := np.setdiff1d(tested, predicted)).size:
            found[name] = data.classes[missing].tolist()
    return found
