"""Failures: weak slices, confident mistakes, doubted labels, leaked texts."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from pipeline._compat import rows_of
from pipeline.answers import Answers, Judged, ask, positions
from pipeline.columns import first_step, model_inside, reads_columns
from pipeline.evaluation.baselines import check_classifier_to_fit, encode_all, vectorizers_of
from pipeline.evaluation.folds import check_classes, keep_groups, split_folds
from pipeline.evaluation.metrics import wilson_interval
from pipeline.exceptions import ExplanationError, TruncationWarning, UnknownTokensWarning
from pipeline.explanation import explain
from pipeline.progress import progress
from pipeline.text_warnings import unknown_report
from pipeline.texts import (
    canonical,
    check_texts,
    class_numbers,
    group_numbers,
    label_cells,
    labels_of_texts,
    text_groups,
)
from pipeline.vectorizer import BertVectorizer

_MOST_GROUPS = 20  # other values of a column become "other"
_LENGTH_GROUPS = 4
_N_NEAREST = 3  # training texts of a mistake


def texts_of(X: Any) -> list[str]:
    """Return each row as readable text, joining several columns."""
    return check_texts(X, missing="empty", on_invalid="coerce")


def slice_by(values: Iterable[Any], right: np.ndarray) -> list[dict[str, Any]]:
    """Return size, accuracy and Wilson interval for the texts of each value."""
    named = pd.Series(
        ["missing" if pd.isna(value) else str(value) for value in values], dtype=object
    )
    counts = named.value_counts()
    if len(counts) > _MOST_GROUPS:
        named = named.where(named.isin(counts.index[: _MOST_GROUPS - 1]), "other")
    # no groupby: its index would be pandas' str, which refuses lone surrogates
    return [_group(value, right[(named == value).to_numpy()]) for value in sorted(named.unique())]


def _group(value: str, right: np.ndarray) -> dict[str, Any]:
    n_right = int(right.sum())
    return {
        "value": value,
        "n_texts": len(right),
        "accuracy": n_right / len(right),
        "interval": wilson_interval(n_right, len(right)),
    }


def count_tokens(model: Any, X: Any, texts: list[str]) -> pd.DataFrame | None:
    """Return the token counts of the model's vectorizer, None without one."""
    vectorizer = first_step(model)
    if not isinstance(vectorizer, BertVectorizer):
        return None
    return vectorizer.count_tokens(X if vectorizer.n_features_in_ > 1 else texts)


def slices_by_length(
    counted: pd.DataFrame | None, texts: list[str], right: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Score groups of similar length, and truncated texts separately."""
    if counted is None:
        return {"by characters": _by_number(np.array(list(map(len, texts))), right)}
    slices = {
        "by tokens": _by_number(counted["n_tokens"].to_numpy(), right),
        "by truncation": slice_by(np.where(counted["n_lost"], "cut", "whole"), right),
    }
    # in plain ASCII, [UNK] is a very long word
    unknown = [
        "some" if n and not text.isascii() else "none"
        for n, text in zip(counted["n_unknown"], texts, strict=True)
    ]
    if "some" in unknown:
        slices["by unknown characters"] = slice_by(unknown, right)
    return slices


def count_unknown(model: Any, counted: pd.DataFrame | None) -> dict[str, Any] | None:
    """Sum up unknown tokens, beside those of the training texts."""
    if counted is None:
        return None
    names = ("n_tokens", "n_unknown", "n_words")
    report = unknown_report(*(counted[name].to_numpy() for name in names))
    return {**report, "training": getattr(first_step(model), "unknown_report_", None)}


def _by_number(numbers: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _LENGTH_GROUPS + 1), method="lower"))
    group = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, max(len(edges) - 2, 0))
    return [
        _group(f"{numbers[group == i].min()} to {numbers[group == i].max()}", right[group == i])
        for i in np.unique(group).tolist()
    ]


def find_mistakes(
    model: Any, X: Any, judged: Judged, *, n: int, train: tuple[Any, Any] | None
) -> list[dict[str, Any]]:
    """List the most confident mistakes, with explanations and nearest training texts."""
    wrong = np.flatnonzero(judged.predicted != judged.true)
    rows = wrong[np.argsort(-np.nan_to_num(judged.sure[wrong], nan=-1.0), kind="stable")][:n]
    return _with_nearest(_explained_labels(model, X, rows, judged), model, X, train)


def find_examples(model: Any, X: Any, judged: Judged, *, n: int) -> list[dict[str, Any]]:
    """List explained correct predictions, the surest of each class in turn."""
    predicted = judged.predicted
    right = np.flatnonzero(predicted == judged.true)
    surest = pd.Series(judged.sure[right], index=right)
    turn = surest.groupby(predicted[right]).rank(method="first", ascending=False)
    order = np.lexsort((predicted[right], turn))
    return _explained_labels(model, X, right[order][: max(n, 0)], judged)


def _explained_labels(model: Any, X: Any, rows: np.ndarray, judged: Judged) -> list[dict[str, Any]]:
    def weigh(frame: pd.DataFrame, row: int) -> dict[str, Any]:
        classes, label, true = frame.attrs["classes"], judged.predicted[row], judged.true[row]
        if label >= len(classes):
            return {"refused": "the predicted label is not one of the model's classes."}
        if len(classes) == 2:
            return _weighted_words(frame, frame["contribution"] * (1 if label == 1 else -1))
        order = np.argsort(frame.attrs["decision"], kind="stable")[::-1].tolist()
        others = [true, *order] if true < len(classes) else order
        other = classes[next(place for place in others if place != label)]
        values = frame[f"contribution_{classes[label]}"] - frame[f"contribution_{other}"]
        return _weighted_words(frame, values) | {"against": other}

    return _explained(model, X, rows, judged.said, weigh)


def _weighted_words(frame: pd.DataFrame, contributions: pd.Series) -> dict[str, Any]:
    words = frame.assign(contribution=contributions)[["word", "start", "end", "contribution"]]
    return {"method": frame.attrs["method"], "words": words.to_dict(orient="records")}


def find_in_label_sets(
    model: Any,
    X: Any,
    true: np.ndarray,
    answers: Answers,
    names: Sequence[str],
    *,
    n: int,
    wrong: bool,
    train: tuple[Any, Any] | None = None,
) -> list[dict[str, Any]]:
    """List texts with a wrong or right label, surest first."""
    given, probability = answers.labels, answers.probability
    is_right = given == true
    if wrong:
        which = ~is_right
    else:  # a label of the text says more than one that it lacks
        which = is_right & (given == 1) & is_right.all(axis=1, keepdims=True)
    sure = np.where(given == 1, probability, 1 - probability)  # (n_texts, n_labels)
    if (unknown := bool(np.isnan(probability).all())) and answers.ranking.shape == given.shape:
        sure = np.abs(answers.ranking)
    sure = np.where(which, np.nan_to_num(sure), -np.inf)
    rows = np.flatnonzero(which.any(axis=1))
    rows = rows[np.argsort(-sure[rows].max(axis=1), kind="stable")][: max(n, 0)]
    surest = sure.argmax(axis=1)

    def said(row: int) -> dict[str, Any]:
        return {
            "true": [names[j] for j in np.flatnonzero(true[row]).tolist()],
            "predicted": [names[j] for j in np.flatnonzero(given[row]).tolist()],
            "label": names[surest[row]],
            "probability": None if unknown else float(sure[row, surest[row]]),
        }

    def weigh(frame: pd.DataFrame, row: int) -> dict[str, Any]:
        own = [name for name in frame if str(name).startswith("contribution")][surest[row]]
        return _weighted_words(frame, frame[own] * (1 if given[row, surest[row]] else -1))

    found = _explained(model, X, rows, said, weigh)
    return _with_nearest(found, model, X, train) if wrong else found


def _explained(
    model: Any,
    X: Any,
    rows: np.ndarray,
    said: Callable[[int], dict[str, Any]],
    weigh: Callable[[pd.DataFrame, int], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return each row's text, the labels said of it, and its weighed words."""
    if not len(rows):
        return []
    chosen = rows_of(X, rows)
    try:
        with silent_truncation():
            frames = explain(model, chosen)
        explanations = [weigh(*pair) for pair in zip(frames, rows.tolist(), strict=True)]
    except ExplanationError as error:
        explanations = [{"refused": str(error)}] * len(rows)
    return [
        {"row": row, "text": text, **said(row), "explanation": explanation}
        for row, text, explanation in zip(
            rows.tolist(), texts_of(chosen), explanations, strict=True
        )
    ]


@contextmanager
def silent_truncation(silent: bool = True) -> Iterator[None]:
    """Ignore truncation warnings that were given before."""
    with warnings.catch_warnings():
        if silent:
            warnings.simplefilter("ignore", TruncationWarning)
            warnings.simplefilter("ignore", UnknownTokensWarning)
        yield


def _with_nearest(
    found: list[dict[str, Any]], model: Any, X: Any, train: tuple[Any, Any] | None
) -> list[dict[str, Any]]:
    """Add the most similar training texts to each mistake, None if unavailable."""
    nearest: list[Any] = [None] * len(found)
    if found and train is not None:
        ours = features_of(model, rows_of(X, [mistake["row"] for mistake in found]))
        if ours is not None:
            ours, theirs = dense(ours), dense(features_of(model, train[0]))
            known, labels = texts_of(train[0]), label_cells(train[1])
            lengths = [np.linalg.norm(rows, axis=1).clip(1e-12) for rows in (ours, theirs)]
            similarity = ours @ theirs.T / np.outer(*lengths)  # (n_mistakes, n_training_texts)
            nearest = [
                [
                    {"text": known[i], "label": labels[i], "similarity": float(row[i])}
                    for i in np.argsort(-row, kind="stable")[:_N_NEAREST].tolist()
                ]
                for row in similarity
            ]
    return [{**mistake, "nearest": near} for mistake, near in zip(found, nearest, strict=True)]


def features_of(model: Any, X: Any) -> Any:
    """Return the last step's input, None if unavailable."""
    while not (isinstance(model, Pipeline) and len(model.steps) > 1):
        model = model[0] if isinstance(model, Pipeline) else model_inside(model)
        if model is None:
            return None
    return model[:-1].transform(X)


def dense(features: Any) -> np.ndarray:
    """Return an array, sparse matrix or DataFrame as float64."""
    return np.asarray(
        features.toarray() if hasattr(features, "toarray") else features, dtype=np.float64
    )


def find_duplicates(
    texts: Sequence[str], labels: Sequence[Any], X_train: Any, y_train: Any
) -> dict[str, Any]:
    """Find texts that also occur in the training set."""
    known: dict[str, int] = {}
    classes = list(dict.fromkeys(label_cells(y_train)))
    theirs, ours = (positions(label_cells(y), classes)[0].tolist() for y in (y_train, labels))
    for text, label in zip(texts_of(X_train), theirs, strict=True):
        known.setdefault(canonical(text), label)
    found = {i: known[key] for i, text in enumerate(texts) if (key := canonical(text)) in known}
    rows = list(found)
    return {
        "n_texts": len(rows),
        "share": len(rows) / max(len(texts), 1),
        "other_label": sum(label != ours[i] for i, label in found.items()),
        "rows": rows,
        "examples": [texts[i] for i in rows[:5]],
    }


def label_issues(
    model: BaseEstimator,
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    groups: Any = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Rank texts by how much a classifier doubts their label.

    The classifier is cross-validated, so it judges texts that it was not fitted to. Each text is
    encoded once.

    Parameters
    ----------
    model : estimator
        A classifier with ``predict_proba``, such as `make_sentiment_pipeline()`. A copy is fitted.
    X : iterable of str, length n_texts, or DataFrame
        Texts, or the columns that the model takes.
    y : array-like of shape (n_texts,)
        Labels.
    cv : int, splitter or iterable of (train, test), default=5
        The folds, which test every text once. A number means stratified and shuffled.
    groups : array-like of shape (n_texts,), optional
        Texts of one group, such as one author's, stay on one side of every fold, as equal texts do.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    DataFrame
        One row per text, the most doubtful first, indexed by the row in X: ``text``; ``label``;
        ``suggested`` (the most probable other class); ``probability`` (of the label); ``score``
        (``probability`` minus that of ``suggested``); ``issue`` (whether the label is probably
        wrong).

    Notes
    -----
    This is confident learning [1]_. A text belongs confidently to a class if its probability is at
    least the mean over the texts with that label. A label is an issue if the text belongs
    confidently to another class, and the label is not the most probable one, as in cleanlab [2]_.
    Look at the texts before changing labels: rare but correct texts are doubted too.

    References
    ----------
    .. [1] Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
       Labels", 2021.
    .. [2] https://github.com/cleanlab/cleanlab, ``find_label_issues`` with
       ``filter_by="confident_learning"``.

    Examples
    --------
    >>> from pipeline import load_reviews, make_sentiment_pipeline
    >>> few = load_reviews()[0][:200]
    >>> table = label_issues(make_sentiment_pipeline(), few["text"], few["label"], cv=3)
    >>> list(table.columns)
    ['text', 'label', 'suggested', 'probability', 'score', 'issue']
    """
    X = X if hasattr(X, "__len__") else list(X)
    texts = texts_of(X)
    classes, codes = class_numbers(labels_of_texts(y, len(texts)), len(texts))
    together = text_groups(texts, group_numbers(groups, len(texts)))
    folds = split_folds(cv, codes, random_state, together)
    check_classes(folds, classes, codes)
    tested = np.concatenate([test for _, test in folds])
    if not np.array_equal(np.sort(tested), np.arange(len(texts))):
        raise ValueError(
            "cv must test every text once, so that each label is judged. Use a number, or a "
            "splitter such as StratifiedKFold."
        )
    model, labels = clone(check_classifier_to_fit("model", model)), classes[codes]
    for vectorizer in vectorizers_of(model):  # a loaded pipeline has no cache
        vectorizer.set_params(cache=vectorizer.cache or "memory")
    shown = any(vectorizer.progress for vectorizer in vectorizers_of(model))
    probability = np.zeros((len(texts), len(classes)))
    with progress(unit="fit", shown=shown) as part:
        if warned := not reads_columns(model):
            encode_all([model], X, labels)
        for i, (train, test) in enumerate(part.folds(folds, "the classifier")):
            fitted: Any = clone(model)
            if together is not None:
                fitted = keep_groups(fitted, codes[train], together[train], random_state)
            with silent_truncation(warned or i > 0):
                fitted.fit(rows_of(X, train), labels[train])
                answers = ask(fitted, rows_of(X, test))
            known, _ = positions(np.asarray(fitted.classes_).tolist(), classes.tolist())
            probability[np.ix_(test, known)] = answers.probability
    return doubted_labels(texts, codes, classes.tolist(), probability)


def doubted_labels(
    texts: Sequence[str], given: np.ndarray, classes: Sequence[Any], probability: np.ndarray
) -> pd.DataFrame:
    """Return the table of `label_issues` for given classes, (n_texts,), and probabilities."""
    rows = np.arange(len(given))
    own = probability[rows, given]
    n_given, sums = (np.bincount(given, weights, len(classes)) for weights in (None, own))
    # no text belongs confidently to a class without texts
    mean = np.divide(sums, n_given, out=np.full(len(classes), np.inf), where=n_given > 0)
    # rounding must not decide if all texts of a class have one probability
    confident = np.where(probability >= mean - 1e-6, probability, -np.inf)
    others = probability.copy()
    others[rows, given] = -np.inf
    issue = (confident.max(axis=1) > -np.inf) & (confident.argmax(axis=1) != given)
    issue &= others.max(axis=1) > own
    suggested = np.where(issue, confident.argmax(axis=1), others.argmax(axis=1))
    table = pd.DataFrame(
        {
            "text": pd.Series(texts, dtype=object),
            "label": [classes[i] for i in given.tolist()],
            "suggested": [classes[i] for i in suggested.tolist()],
            "probability": own,
            "score": own - probability[rows, suggested],
            "issue": issue,
        }
    )
    return table.sort_values("score", kind="stable")
