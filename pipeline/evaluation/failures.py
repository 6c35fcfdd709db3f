"""Where a classifier fails: scores by length, truncation and columns, confident mistakes, leaked texts. Used by evaluation."""

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from pipeline.answers import Judged
from pipeline.evaluation.metrics import wilson_interval
from pipeline.exceptions import ExplanationError, TruncationWarning
from pipeline.explanation import explain
from pipeline.texts import check_texts, take_columns
from pipeline.vectorizer import BertVectorizer

_MOST_GROUPS = 20  # of a column with more values only the largest are told apart
_LENGTH_GROUPS = 4


def texts_of(X: Any) -> list[str]:
    """Return what people read of any rows, a str each: cells that are no text in words, several columns joined by a space."""
    return check_texts(take_columns(X, on_invalid="coerce"), missing="empty", on_invalid="coerce")


def slice_by(values: Sequence[Any], right: np.ndarray) -> list[dict[str, Any]]:
    """Score the texts of each value apart.

    Parameters
    ----------
    values : sequence, length n_texts
        Any values; missing ones are a group of their own. Beyond the 20 most frequent they are put together as "other".
    right : ndarray of shape (n_texts,), bool
        Whether each prediction was right.

    Returns
    -------
    list of dict
        ``value`` (as text), ``n_texts``, ``accuracy`` and its 95 % ``interval`` (Wilson), in the order of the values.
    """
    named = pd.Series(
        ["missing" if pd.isna(value) else str(value) for value in values], dtype=object
    )
    counts = named.value_counts()
    if len(counts) > _MOST_GROUPS:
        named = named.where(named.isin(counts.index[: _MOST_GROUPS - 1]), "other")
    return [_group(value, right[(named == value).to_numpy()]) for value in sorted(named.unique())]


def _group(value: str, right: np.ndarray) -> dict[str, Any]:
    n_right = int(right.sum())
    return {
        "value": value,
        "n_texts": len(right),
        "accuracy": n_right / len(right),
        "interval": wilson_interval(n_right, len(right)),
    }


def slices_by_length(model: Any, X: Any, right: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Score short and long texts apart, and texts that were cut from whole ones.

    Parameters
    ----------
    model : estimator
        In tokens where it is a pipeline that begins with a BertVectorizer, else in characters.
    X : list, array, Series or DataFrame, length n_texts
    right
        As for `slice_by`.

    Returns
    -------
    dict
        ``by tokens`` and ``by truncation``, or ``by characters``: groups of about equal size.
    """
    vectorizer = model.steps[0][1] if isinstance(model, Pipeline) else None
    if not isinstance(vectorizer, BertVectorizer):
        return {"by characters": _by_number(np.array([len(text) for text in texts_of(X)]), right)}
    counted = vectorizer.count_tokens(X)
    cut = ["cut" if lost else "whole" for lost in counted["n_lost"]]
    return {
        "by tokens": _by_number(counted["n_tokens"].to_numpy(), right),
        "by truncation": slice_by(cut, right),
    }


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
    """List the wrong predictions that the model was surest of, with what may explain them.

    Parameters
    ----------
    model : estimator
        Fitted.
    X : list, array, Series or DataFrame, length n_texts
        As the model predicts on it.
    judged : Judged
        The n_texts rows.
    n : int
        How many at most.
    train : (X_train, y_train) or None
        To find the nearest training texts, by cosine of the features before the last step.

    Returns
    -------
    list of dict
        ``row``, ``text``, ``true``, ``predicted``, ``probability`` (of what was predicted; None for a label that
        is no class), ``explanation`` (``method`` and the
        ``words`` with their ``contribution`` to what was predicted; or ``refused``, the reason), ``nearest`` (three training
        texts with ``label`` and ``similarity``; None without ``train``).
    """
    wrong = np.flatnonzero(judged.predicted != judged.true)
    rows = wrong[np.argsort(-np.nan_to_num(judged.sure[wrong], nan=-1.0), kind="stable")][:n]
    return _explained(model, X, rows, judged, train=train)


def _explained(
    model: Any, X: Any, rows: np.ndarray, judged: Judged, *, train: tuple[Any, Any] | None
) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    chosen = _safe_indexing(X, rows)
    explanations = _explanations(model, chosen, judged.predicted[rows])
    nearest = [None] * len(rows) if train is None else _nearest(model, chosen, *train)
    return [
        {
            "row": int(row),
            "text": text,
            **judged.said(row),
            "explanation": explanation,
            "nearest": near,
        }
        for row, text, explanation, near in zip(
            rows, texts_of(chosen), explanations, nearest, strict=True
        )
    ]


def find_examples(model: Any, X: Any, judged: Judged, *, n: int) -> list[dict[str, Any]]:
    """List right predictions with what explains them: the surest of each class, then the second surest of each, and so on.

    Parameters
    ----------
    model, X, judged
        As for `find_mistakes`.
    n : int
        How many at most.

    Returns
    -------
    list of dict
        As of `find_mistakes`, without ``nearest``.
    """
    predicted = judged.predicted
    right = np.flatnonzero(predicted == judged.true)
    surest = pd.Series(judged.sure[right], index=right)
    turn = surest.groupby(predicted[right]).rank(method="first", ascending=False)
    order = np.lexsort((predicted[right], turn))
    return [
        {name: value for name, value in one.items() if name != "nearest"}
        for one in _explained(model, X, right[order][: max(n, 0)], judged, train=None)
    ]


def _explanations(model: Any, X: Any, predicted: np.ndarray) -> list[dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # told when they were scored
            frames = explain(model, X)
    except ExplanationError as error:
        return [{"refused": str(error)}] * len(predicted)
    told: list[dict[str, Any]] = []
    for frame, label in zip(frames, predicted, strict=True):
        classes = frame.attrs["classes"]
        if label >= len(classes):
            told.append({"refused": "the predicted label is not one of the model's classes."})
            continue
        if len(classes) == 2:
            values = frame["contribution"] * (1 if label == 1 else -1)
        else:
            values = frame[f"contribution_{classes[label]}"]
        words = [
            {"word": word, "start": int(start), "end": int(end), "contribution": float(value)}
            for word, start, end, value in zip(
                frame["word"], frame["start"], frame["end"], values, strict=True
            )
        ]
        told.append({"method": frame.attrs["method"], "words": words})
    return told


def _nearest(
    model: Any, X: Any, X_train: Any, y_train: Any, n: int = 3
) -> list[list[dict[str, Any]] | None]:
    ours = texts_of(X)
    if not isinstance(model, Pipeline):
        return [None] * len(ours)
    known, labels = texts_of(X_train), np.asarray(list(y_train), dtype=object).tolist()
    similarity = (
        _unit(model[:-1].transform(X)) @ _unit(model[:-1].transform(X_train)).T
    )  # (n_texts, n_training_texts)
    return [
        [
            {"text": known[i], "label": labels[i], "similarity": float(row[i])}
            for i in np.argsort(-row, kind="stable")[:n].tolist()
        ]
        for row in similarity
    ]


def _unit(features: Any) -> np.ndarray:
    dense = np.asarray(
        features.toarray() if hasattr(features, "toarray") else features, dtype=np.float64
    )
    return np.asarray(dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12))


def find_duplicates(
    texts: Sequence[str], labels: Sequence[Any], X_train: Any, y_train: Any
) -> dict[str, Any]:
    """Find texts that the model was trained on: a score on them says nothing about new ones.

    Two texts are the same where they differ in case, blanks and Unicode form (NFKC) only.

    Parameters
    ----------
    texts, labels : sequence, length n_texts
        The scored texts.
    X_train, y_train : length n_training_texts
        As given to `pipeline.evaluate`.

    Returns
    -------
    dict
        ``n_texts`` (scored texts that are in the training set), ``share``, ``other_label`` (how many of them have another label
        there), ``rows`` (of the scored texts), ``examples`` (up to five).
    """
    known: dict[str, str] = {}
    for text, label in zip(texts_of(X_train), y_train, strict=True):
        known.setdefault(_canonical(text), str(label))
    rows = [i for i, text in enumerate(texts) if _canonical(text) in known]
    return {
        "n_texts": len(rows),
        "share": len(rows) / len(texts) if len(texts) else 0.0,
        "other_label": sum(known[_canonical(texts[i])] != str(labels[i]) for i in rows),
        "rows": rows,
        "examples": [str(texts[i]) for i in rows[:5]],
    }


def _canonical(text: Any) -> str:
    return " ".join(unicodedata.normalize("NFKC", str(text)).casefold().split())
