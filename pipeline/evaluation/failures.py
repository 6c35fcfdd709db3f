"""Failures of a classifier: slices, confident mistakes, leaked texts."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from pipeline._compat import rows_of
from pipeline.answers import Answers, Judged, positions
from pipeline.columns import first_step, model_inside
from pipeline.evaluation.metrics import wilson_interval
from pipeline.exceptions import ExplanationError, TruncationWarning, UnknownTokensWarning
from pipeline.explanation import explain
from pipeline.text_warnings import unknown_report
from pipeline.texts import canonical, check_texts, label_cells, take_columns
from pipeline.vectorizer import BertVectorizer

_MOST_GROUPS = 20  # other values of a column become "other"
_LENGTH_GROUPS = 4


def texts_of(X: Any) -> list[str]:
    """Return each row as readable text, joining several columns."""
    return check_texts(take_columns(X, on_invalid="coerce"), missing="empty", on_invalid="coerce")


def slice_by(values: Sequence[Any], right: np.ndarray) -> list[dict[str, Any]]:
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


def slices_by_length(model: Any, X: Any, right: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Score groups of similar length, and truncated texts separately."""
    vectorizer = first_step(model)
    if not isinstance(vectorizer, BertVectorizer):
        return {"by characters": _by_number(np.array([len(text) for text in texts_of(X)]), right)}
    counted = vectorizer.count_tokens(X if vectorizer.n_features_in_ > 1 else texts_of(X))
    cut = ["cut" if lost else "whole" for lost in counted["n_lost"]]
    slices = {
        "by tokens": _by_number(counted["n_tokens"].to_numpy(), right),
        "by truncation": slice_by(cut, right),
    }
    # in plain ASCII, [UNK] is a very long word
    unknown = [
        "some" if n and not text.isascii() else "none"
        for n, text in zip(counted["n_unknown"], texts_of(X), strict=True)
    ]
    if "some" in unknown:
        slices["by unknown characters"] = slice_by(unknown, right)
    return slices


def count_unknown(model: Any, X: Any) -> dict[str, Any] | None:
    """Count unknown tokens in X and in the training texts."""
    vectorizer = first_step(model)
    if not isinstance(vectorizer, BertVectorizer):
        return None
    counted = vectorizer.count_tokens(X if vectorizer.n_features_in_ > 1 else texts_of(X))
    names = ("n_tokens", "n_unknown", "n_words")
    report = unknown_report(*(counted[name].to_numpy() for name in names))
    return {**report, "training": getattr(vectorizer, "unknown_report_", None)}


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
    return _explained(model, X, rows, judged, train=train)


def _explained(
    model: Any, X: Any, rows: np.ndarray, judged: Judged, *, train: tuple[Any, Any] | None = None
) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    chosen = rows_of(X, rows)
    explanations = _explanations(model, chosen, judged.predicted[rows], judged.true[rows])
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
    """List explained correct predictions, the surest of each class in turn."""
    predicted = judged.predicted
    right = np.flatnonzero(predicted == judged.true)
    surest = pd.Series(judged.sure[right], index=right)
    turn = surest.groupby(predicted[right]).rank(method="first", ascending=False)
    order = np.lexsort((predicted[right], turn))
    return [
        {name: value for name, value in example.items() if name != "nearest"}
        for example in _explained(model, X, right[order][: max(n, 0)], judged)
    ]


def _explanations(
    model: Any, X: Any, predicted: np.ndarray, true: np.ndarray
) -> list[dict[str, Any]]:
    """Explain each label, against the next one if there are many."""
    frames = _frames(model, X)
    if isinstance(frames, str):
        return [{"refused": frames}] * len(predicted)
    explanations: list[dict[str, Any]] = []
    for frame, label, right in zip(frames, predicted, true, strict=True):
        classes = frame.attrs["classes"]
        against = {}
        if label >= len(classes):
            refused = "the predicted label is not one of the model's classes."
            explanations.append({"refused": refused})
            continue
        if len(classes) == 2:
            values = frame["contribution"] * (1 if label == 1 else -1)
        else:
            order = np.argsort(frame.attrs["decision"], kind="stable")[::-1].tolist()
            others = [right, *order] if right < len(classes) else order
            other = classes[next(place for place in others if place != label)]
            values = frame[f"contribution_{classes[label]}"] - frame[f"contribution_{other}"]
            against = {"against": other}
        explanations.append(_weighted_words(frame, values) | against)
    return explanations


def _frames(model: Any, X: Any) -> Sequence[pd.DataFrame] | str:
    try:
        with warnings.catch_warnings():
            for given in (TruncationWarning, UnknownTokensWarning):
                warnings.simplefilter("ignore", given)
            return explain(model, X)
    except ExplanationError as error:
        return str(error)


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
    given, said = answers.labels, answers.probability
    is_right = given == true
    if wrong:
        which = ~is_right
    else:  # a label of the text says more than one that it lacks
        which = is_right & (given == 1) & is_right.all(axis=1, keepdims=True)
    sure = np.where(given == 1, said, 1 - said)  # (n_texts, n_labels)
    if np.isnan(said).all():
        ranking = answers.ranking
        sure = np.abs(ranking) if ranking.shape == given.shape else sure
    sure = np.where(which, np.nan_to_num(sure), -np.inf)
    rows = np.flatnonzero(which.any(axis=1))
    rows = rows[np.argsort(-sure[rows].max(axis=1), kind="stable")][: max(n, 0)]
    if not len(rows):
        return []
    chosen, label = rows_of(X, rows), sure[rows].argmax(axis=1)
    frames = _frames(model, chosen)
    nearest = [None] * len(rows) if train is None else _nearest(model, chosen, *train)
    found = []
    for i, (row, k, text, near) in enumerate(
        zip(rows.tolist(), label.tolist(), texts_of(chosen), nearest, strict=True)
    ):
        explanation = {"refused": frames}
        if not isinstance(frames, str):
            sign = 1 if given[row, k] else -1
            own = [name for name in frames[i] if str(name).startswith("contribution")][k]
            explanation = _weighted_words(frames[i], sign * frames[i][own])
        probability = None if np.isnan(said).all() else float(sure[row, k])
        found.append(
            {
                "row": row,
                "text": text,
                "true": [names[j] for j in np.flatnonzero(true[row]).tolist()],
                "predicted": [names[j] for j in np.flatnonzero(given[row]).tolist()],
                "label": names[k],
                "probability": probability,
                "explanation": explanation,
                **({"nearest": near} if wrong else {}),
            }
        )
    return found


def _nearest(
    model: Any, X: Any, X_train: Any, y_train: Any, n: int = 3
) -> Sequence[list[dict[str, Any]] | None]:
    """Return the n most similar training texts of each row."""
    ours, theirs = features_of(model, X), features_of(model, X_train)
    if ours is None or theirs is None:
        return [None] * len(X)
    known, labels = texts_of(X_train), label_cells(y_train)
    ours, theirs = dense(ours), dense(theirs)
    lengths = [np.linalg.norm(rows, axis=1).clip(1e-12) for rows in (ours, theirs)]
    similarity = ours @ theirs.T / np.outer(*lengths)  # (n_texts, n_training_texts)
    return [
        [
            {"text": known[i], "label": labels[i], "similarity": float(row[i])}
            for i in np.argsort(-row, kind="stable")[:n].tolist()
        ]
        for row in similarity
    ]


def features_of(model: Any, X: Any) -> Any:
    """Return the last step's input, None if unavailable."""
    while not (isinstance(model, Pipeline) and len(model.steps) > 1):
        model = model[0] if isinstance(model, Pipeline) else model_inside(model)
        if model is None:
            return None
    return model[:-1].transform(X)


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
        "share": len(rows) / len(texts) if len(texts) else 0.0,
        "other_label": sum(label != ours[i] for i, label in found.items()),
        "rows": rows,
        "examples": [str(texts[i]) for i in rows[:5]],
    }
