"""Explain a prediction by its words, exactly where possible."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA, FactorAnalysis, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectorMixin
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import BaseRandomProjection
from sklearn.utils.validation import check_is_fitted

from pipeline.exceptions import ExplanationError
from pipeline.texts import check_texts, take_columns
from pipeline.token_level import join_words
from pipeline.vectorizer import BertVectorizer

Method = Literal["auto", "exact", "occlusion"]
# transform(x) = x @ A + b of each of these
_AFFINE = (
    *(StandardScaler, RobustScaler, MinMaxScaler, MaxAbsScaler),
    *(PCA, IncrementalPCA, TruncatedSVD, FastICA, FactorAnalysis, LinearDiscriminantAnalysis),
    *(BaseRandomProjection, SelectorMixin),
)
_ROWS_AT_ONCE = 1024


def explain(
    model: Pipeline,
    X: Iterable[str],
    *,
    level: Literal["word", "token"] = "word",
    method: Method = "auto",
) -> list[pd.DataFrame]:
    """Say what each word or token of a text adds to the classifier's decision.

    With ``pooling="mean"``, any layers, any ``combine`` and affine steps (scalers, PCA, feature
    selection) before a linear classifier, the decision is a sum over the tokens, and the
    contributions are exact: with the intercept they add up to ``decision_function``. What a token's
    vector holds it has in part from its neighbours: this is how the decision was made, not what it
    would have been without the word.

    For other poolings there is no such sum. There every word is left out in turn, and its
    contribution is by how much the decision falls: this is what it would have been without the
    word, and such contributions do not add up.

    Parameters
    ----------
    model : sklearn.pipeline.Pipeline
        Fitted: a `BertVectorizer`, any number of steps, a classifier with ``decision_function``.
    X : iterable of str, length n_texts
        Texts.
    level : {"word", "token"}, default="word"
        A row per word, or per token (word piece), which needs the exact method.
    method : {"auto", "exact", "occlusion"}, default="auto"
        ``"exact"`` for mean pooling, else ``"occlusion"``; or one of them in any case. Occlusion
        encodes each text once more per word.

    Returns
    -------
    list of DataFrame, length n_texts
        One row per word or token, in the order of the text: ``word`` (or ``token``), ``start``,
        ``end`` (its characters in the text) and ``contribution``; where there are more than two
        classes, ``contribution_<class>`` for each. Of two classes, positive speaks for
        ``classes_[1]``. [CLS] and [SEP] are tokens as well, and have rows under the exact method.
        ``frame.attrs`` holds ``method``, ``decision`` (that of the text), ``intercept`` (what was
        added to the sum; under occlusion the decision on the empty text), and ``classes``; the last
        three are lists where there are more than two classes.

    Raises
    ------
    ExplanationError
        For pipelines that cannot be explained so: no vectorizer in front, no linear classifier at
        the end, a step between them that is not affine.

    Examples
    --------
    >>> from pipeline import make_sentiment_pipeline
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> frame = explain(model, ["What a lovely evening."])[0]
    >>> frame["word"].tolist()
    ['[CLS]', 'What', 'a', 'lovely', 'evening', '.', '[SEP]']
    >>> total = frame["contribution"].sum() + frame.attrs["intercept"]
    >>> bool(abs(total - model.decision_function(["What a lovely evening."])[0]) < 1e-5)
    True
    """
    if level not in ("word", "token"):
        raise ValueError(f"level={level!r}; allowed are 'word' and 'token'.")
    if method not in ("auto", "exact", "occlusion"):
        raise ValueError(f"method={method!r}; allowed are 'auto', 'exact' and 'occlusion'.")
    vectorizer = _vectorizer_of(model)
    # of a DataFrame list() would give the column names
    table = take_columns(X, on_invalid=vectorizer.on_invalid)
    if len(table.columns) > 1:
        raise ExplanationError(
            f"X has {len(table.columns)} columns; the words of one column of texts can be "
            "explained."
        )
    texts = check_texts(table, missing=vectorizer.missing, on_invalid=vectorizer.on_invalid)
    if method == "auto":
        method = "exact" if _takes_the_mean(vectorizer) else "occlusion"
    if method == "exact":
        return _exact(model, vectorizer, texts, level) if texts else []
    if level == "token":
        raise ExplanationError(
            f"level='token' needs the exact method, and pooling={vectorizer.pooling!r} leaves only "
            "occlusion, which leaves out whole words. Use level='word', or pooling='mean'."
        )
    return _occlusion(model, vectorizer, texts)


def _vectorizer_of(model: Pipeline) -> BertVectorizer:
    if not isinstance(model, Pipeline):
        raise ExplanationError(
            f"model is a {type(model).__name__}; a fitted Pipeline that begins with a "
            "BertVectorizer is expected."
        )
    check_is_fitted(model)
    first = model.steps[0][1]
    if not isinstance(first, BertVectorizer):
        raise ExplanationError(
            f"The pipeline begins with a {type(first).__name__}; only one that begins with a "
            "BertVectorizer can be explained."
        )
    if not hasattr(model, "decision_function"):
        raise ExplanationError(
            f"The last step, {type(model[-1]).__name__}, has no decision_function to be explained. "
            "Use a linear classifier, for example LogisticRegression."
        )
    return first


def _takes_the_mean(vectorizer: BertVectorizer) -> bool:
    return vectorizer.pooling == "mean" or list(vectorizer.pooling) == ["mean"]


# ---- exact


def _exact(
    model: Pipeline, vectorizer: BertVectorizer, texts: list[str], level: str
) -> list[pd.DataFrame]:
    _refuse_not_affine(model, vectorizer)
    weights, intercept = _linear_function(model, vectorizer)
    decisions = np.asarray(model.decision_function(texts), dtype=np.float64).reshape(
        len(texts), len(intercept)
    )
    frames = []
    for text, shares, decision in zip(
        texts, vectorizer.token_shares(texts, weights), decisions, strict=True
    ):
        frame = join_words(shares, text) if level == "word" else shares.drop(columns="word")
        frames.append(_finish(frame, model, "exact", decision, intercept))
    return frames


def _refuse_not_affine(model: Pipeline, vectorizer: BertVectorizer) -> None:
    if not _takes_the_mean(vectorizer) or vectorizer.normalize:
        raise ExplanationError(
            f"pooling={vectorizer.pooling!r}, normalize={vectorizer.normalize}: only the plain "
            "mean is a sum over tokens. Use method='occlusion', or fit with pooling='mean' and "
            "normalize=False."
        )
    for name, step in model.steps[1:-1]:
        identity = step in (None, "passthrough") or (
            isinstance(step, FunctionTransformer) and step.func is None
        )
        if not identity and (not isinstance(step, _AFFINE) or getattr(step, "clip", False)):
            raise ExplanationError(
                f"The step {name!r}, {type(step).__name__}, is not known to be affine, so the "
                "decision is no sum over tokens. Known are "
                f"{', '.join(sorted(kind.__name__ for kind in _AFFINE))}, without clip. Use "
                "method='occlusion'."
            )
    if not isinstance(model[-1], LinearClassifierMixin):
        raise ExplanationError(
            f"The last step, {type(model[-1]).__name__}, is no linear classifier, so the decision "
            "is no sum over tokens. Use method='occlusion', or LogisticRegression, LinearSVC, "
            "RidgeClassifier or SGDClassifier."
        )


def _linear_function(model: Pipeline, vectorizer: BertVectorizer) -> tuple[np.ndarray, np.ndarray]:
    """Return W, (n_features, n_outputs), and b of all steps after the vectorizer."""
    names = vectorizer.get_feature_names_out()

    def decide(features: np.ndarray) -> np.ndarray:
        table: Any = features
        for _, step in model.steps[1:-1]:
            if step not in (None, "passthrough"):
                table = step.transform(_named(table, step, names))
        return np.asarray(
            model[-1].decision_function(_named(table, model[-1], names)), dtype=np.float64
        ).reshape(len(features), -1)

    n_features = len(names)
    intercept = decide(np.zeros((1, n_features)))[0]
    weights = np.empty((n_features, len(intercept)))
    for start in range(0, n_features, _ROWS_AT_ONCE):
        rows = np.eye(min(_ROWS_AT_ONCE, n_features - start), n_features, start)
        weights[start : start + len(rows)] = decide(rows) - intercept
    return weights, intercept


def _named(table: Any, step: Any, names: np.ndarray) -> Any:
    """Give an array the feature names that a step was fitted with."""
    if (
        isinstance(table, np.ndarray)
        and hasattr(step, "feature_names_in_")
        and table.shape[1] == len(names)
    ):
        return pd.DataFrame(table, columns=names)
    return table


# ---- occlusion


def _occlusion(model: Pipeline, vectorizer: BertVectorizer, texts: list[str]) -> list[pd.DataFrame]:
    spans = vectorizer.word_spans(texts)
    shortened = [
        text[:start] + text[end:]
        for text, of_text in zip(texts, spans, strict=True)
        for start, end in of_text
    ]
    decisions = np.asarray(model.decision_function([*texts, "", *shortened]), dtype=np.float64)
    decisions = decisions.reshape(len(decisions), -1)  # (n_texts + 1 + n_words, n_outputs)
    empty, without = decisions[len(texts)], decisions[len(texts) + 1 :]
    frames, n_done = [], 0
    for text, of_text, decision in zip(texts, spans, decisions, strict=False):
        rows = [(text[start:end], start, end) for start, end in of_text]
        frame = pd.DataFrame(rows, columns=["word", "start", "end"])
        contributions = decision - without[n_done : n_done + len(rows)]  # (n_words, n_outputs)
        n_done += len(rows)
        frame = pd.concat([frame, pd.DataFrame(contributions)], axis=1)
        frames.append(_finish(frame, model, "occlusion", decision, empty))
    return frames


# ---- both


def _finish(
    frame: pd.DataFrame, model: Pipeline, method: str, decision: np.ndarray, intercept: np.ndarray
) -> pd.DataFrame:
    """Name the contribution columns and add the attrs."""
    classes = np.asarray(model.classes_).tolist()
    one = len(decision) == 1
    outputs = frame.columns[-len(decision) :]
    names = ["contribution"] if one else [f"contribution_{label}" for label in classes]
    frame = frame.rename(columns=dict(zip(outputs, names, strict=True)))
    frame.attrs = {
        "method": method,
        "decision": float(decision[0]) if one else decision.tolist(),
        "intercept": float(intercept[0]) if one else intercept.tolist(),
        "classes": classes,
    }
    return frame
