"""Explain a prediction by its words, exactly where possible."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA, FactorAnalysis, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectorMixin
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

from pipeline._compat import is_linear_classifier
from pipeline.answers import ask_each, gives_several, is_yes_or_no, outputs_of
from pipeline.columns import as_fitted, changes_rows_only, first_step, fitted_columns
from pipeline.csv_table import check_names
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
    model: Any,
    X: Any,
    *,
    level: Literal["word", "token"] = "word",
    method: Method = "auto",
    text: str | None = None,
) -> list[pd.DataFrame]:
    """Say what each word or token of a text adds to the classifier's decision.

    With ``pooling="mean"``, any layers, any ``combine`` and affine steps (scalers, PCA, feature
    selection) before a linear classifier, the decision is a sum over the tokens, and the
    contributions are exact: with the intercept they add up to ``decision_function``. What a token's
    vector holds it has in part from its neighbours: this is how the decision was made, not what it
    would have been without the word.

    For other models there is no such sum. There every word is left out in turn, and its
    contribution is by how much the decision falls: this is what it would have been without the
    word, and such contributions do not add up. The decision is ``decision_function``, or the
    probability where a classifier has none.

    Parameters
    ----------
    model : estimator
        Fitted, with a `BertVectorizer` in it, mostly a Pipeline that begins with one. Of a search
        the best estimator is explained. Samplers are skipped, as when it predicts.
    X : iterable of str, length n_texts, or DataFrame
        Texts; or the columns that the model was fitted on, of which all but one are held fixed.
    level : {"word", "token"}, default="word"
        A row per word, or per token (word piece), which needs the exact method.
    method : {"auto", "exact", "occlusion"}, default="auto"
        ``"exact"`` where that is possible, else ``"occlusion"``; or one of them in any case.
        Occlusion encodes each text once more per word.
    text : str, optional
        The column whose words are left out, where the model reads several columns of texts.

    Returns
    -------
    list of DataFrame, length n_texts
        One row per word or token, in the order of the text: ``word`` (or ``token``), ``start``,
        ``end`` (its characters in the text) and ``contribution``; where there are more than two
        classes, ``contribution_<class>`` for each. Of two classes, positive speaks for
        ``classes_[1]``. [CLS] and [SEP] are tokens as well, and have rows under the exact method.
        ``frame.attrs`` holds ``method``, ``decision`` (that of the text), ``intercept`` (what was
        added to the sum; under occlusion the decision on the empty text), and ``classes``; the last
        three are lists where there are more than two classes. Of several labels per text, the
        classes are the names of the labels.

    Raises
    ------
    ExplanationError
        For models without a BertVectorizer or a classifier; and under ``method="exact"`` for those
        without a linear classifier, or with a step before it that is not affine.

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
    model = _best(model)
    vectorizer = _vectorizer_of(model)
    texts, with_texts = _rows_of(model, vectorizer, X, text)
    steps = list(_steps(model))
    if method != "occlusion":
        try:
            _refuse_not_affine(steps, vectorizer)
            return _exact(model, steps, vectorizer, texts, level) if texts else []
        except ExplanationError as error:
            if method == "exact":
                raise
            reason = str(error)
    else:
        reason = "method='occlusion' leaves out whole words."
    if level == "token":
        raise ExplanationError(f"level='token' needs the exact method. {reason}")
    return _occlusion(model, vectorizer, texts, with_texts) if texts else []


def _best(model: Any) -> Any:
    """Return the pipeline that a search, or a pipeline of nothing else, has found."""
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif (
            isinstance(model, Pipeline)
            and len(model.steps) == 1
            and (isinstance(model[0], Pipeline) or hasattr(model[0], "best_estimator_"))
        ):
            model = model[0]
        else:
            return model


def _vectorizer_of(model: Any) -> BertVectorizer:
    """Return the first fitted BertVectorizer in a model."""
    waiting, seen = deque([model]), set()
    found = None
    while waiting and found is None:
        part = waiting.popleft()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, BertVectorizer):
            found = part if part.__sklearn_is_fitted__() else None
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, BaseEstimator) or type(part).__module__.startswith("sklearn."):
            waiting.extend(getattr(part, "__dict__", {}).values())
    if found is None:
        if isinstance(model, Pipeline):
            check_is_fitted(model)
            what = f"The pipeline begins with a {type(first_step(model)).__name__}"
        else:
            what = f"model is a {type(model).__name__}"
        raise ExplanationError(
            f"{what}; a fitted Pipeline with a BertVectorizer in front of its classifier is "
            "expected."
        )
    check_is_fitted(model)
    if not hasattr(model, "classes_"):
        raise ExplanationError(
            f"The last step, {type(_last(model)).__name__}, is no classifier; only decisions for "
            "classes can be explained."
        )
    return found


def _last(model: Any) -> Any:
    return model[-1] if isinstance(model, Pipeline) else model


def _steps(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the steps that change what is predicted, those of inner pipelines too."""
    for name, step in model.steps if isinstance(model, Pipeline) else [("model", model)]:
        if isinstance(step, Pipeline):
            yield from _steps(step)
        elif not changes_rows_only(step) and not (
            isinstance(step, FunctionTransformer) and step.func is None
        ):
            yield name, getattr(step, "best_estimator_", step)


def _rows_of(
    model: Any, vectorizer: BertVectorizer, X: Any, text: str | None
) -> tuple[list[str], Callable[[np.ndarray, list[str]], Any]]:
    """Return the texts, and what gives the model some rows with other texts in them."""
    options = {"missing": vectorizer.missing, "on_invalid": vectorizer.on_invalid}
    columns = None if first_step(model) is vectorizer else _columns_of(model)
    if columns is None:
        # of a DataFrame list() would give the column names
        table = take_columns(X, on_invalid=vectorizer.on_invalid)
        if len(table.columns) > 1:
            raise ExplanationError(
                f"X has {len(table.columns)} columns; the words of one column of texts can be "
                "explained."
            )
        return check_texts(table, **options), lambda _, texts: texts
    if not isinstance(X, pd.DataFrame):
        if len(columns) > 1:
            raise ExplanationError(
                f"X is a {type(X).__name__}; the model was fitted on the columns "
                f"{', '.join(map(repr, columns))}: give a DataFrame of them."
            )
        X = pd.DataFrame({next(iter(columns)): list(X)})
    check_names(list(X.columns), list(columns), "X")
    names = [name for name, kind in columns.items() if kind == "text"] or [
        name for name in columns if all(isinstance(cell, str) for cell in X[name])
    ]
    column = names[0] if text is None and len(names) == 1 else text
    if column is None or column not in names:
        raise ExplanationError(
            f"text={text!r}: the model reads texts from the columns "
            f"{', '.join(map(repr, names))}; name the one to explain."
        )
    frame = as_fitted(columns, X, column)
    texts = check_texts(frame[column], **options)
    return texts, lambda rows, texts: frame.iloc[rows].assign(**{str(column): texts})


def _columns_of(model: Any) -> Any:
    try:
        return fitted_columns(model)
    except ValueError as error:
        raise ExplanationError(str(error)) from None


def _takes_the_mean(vectorizer: BertVectorizer) -> bool:
    return vectorizer.pooling == "mean" or list(vectorizer.pooling) == ["mean"]


# ---- exact


def _exact(
    model: Any,
    steps: list[tuple[str, Any]],
    vectorizer: BertVectorizer,
    texts: list[str],
    level: str,
) -> list[pd.DataFrame]:
    weights, intercept = _linear_function([step for _, step in steps[1:]], vectorizer)
    decisions = np.asarray(model.decision_function(texts), dtype=np.float64).reshape(
        len(texts), len(intercept)
    )
    frames = []
    for text, shares, decision in zip(
        texts, vectorizer.token_shares(texts, weights), decisions, strict=True
    ):
        frame = join_words(shares, text) if level == "word" else shares.drop(columns="word")
        classes = np.asarray(model.classes_).tolist()
        frames.append(_finish(frame, classes, "exact", decision, intercept))
    return frames


def _refuse_not_affine(steps: list[tuple[str, Any]], vectorizer: BertVectorizer) -> None:
    if steps[0][1] is not vectorizer:
        raise ExplanationError(
            f"The model begins with a {type(steps[0][1]).__name__}, so the decision is no sum over "
            "the tokens of a BertVectorizer. Use method='occlusion'."
        )
    if not _takes_the_mean(vectorizer) or vectorizer.normalize:
        raise ExplanationError(
            f"pooling={vectorizer.pooling!r}, normalize={vectorizer.normalize}: only the plain "
            "mean is a sum over tokens. Use method='occlusion', or fit with pooling='mean' and "
            "normalize=False."
        )
    for name, step in steps[1:-1]:
        if not isinstance(step, _AFFINE) or getattr(step, "clip", False):
            raise ExplanationError(
                f"The step {name!r}, {type(step).__name__}, is not known to be affine, so the "
                "decision is no sum over tokens. Known are "
                f"{', '.join(sorted(kind.__name__ for kind in _AFFINE))}, without clip. Use "
                "method='occlusion'."
            )
    if not is_linear_classifier(steps[-1][1]):
        raise ExplanationError(
            f"The last step, {type(steps[-1][1]).__name__}, is no linear classifier, so the "
            "decision is no sum over tokens. Use method='occlusion', or LogisticRegression, "
            "LinearSVC, RidgeClassifier or SGDClassifier."
        )


def _linear_function(steps: list[Any], vectorizer: BertVectorizer) -> tuple[np.ndarray, np.ndarray]:
    """Return W, (n_features, n_outputs), and b of all steps after the vectorizer."""
    names = vectorizer.get_feature_names_out()

    def decide(features: np.ndarray) -> np.ndarray:
        table: Any = features
        for step in steps[:-1]:
            table = step.transform(_named(table, step, names))
        return np.asarray(
            steps[-1].decision_function(_named(table, steps[-1], names)), dtype=np.float64
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


def _occlusion(
    model: Any,
    vectorizer: BertVectorizer,
    texts: list[str],
    with_texts: Callable[[np.ndarray, list[str]], Any],
) -> list[pd.DataFrame]:
    spans = vectorizer.word_spans(texts)
    variants = [
        [text, "", *(text[:start] + text[end:] for start, end in of_text)]
        for text, of_text in zip(texts, spans, strict=True)
    ]
    sizes = [len(of_text) for of_text in variants]
    rows = np.repeat(np.arange(len(texts)), sizes)
    shortened = with_texts(rows, [text for of_text in variants for text in of_text])
    try:
        decisions, classes = _decide(model, shortened)  # (n_rows, n_outputs)
    except ExplanationError:
        raise
    except ValueError as error:  # as of neighbours within a radius
        raise ExplanationError(
            f"The model fails on texts without one of their words: {error}"
        ) from error
    frames = []
    for text, of_text, own in zip(
        texts, spans, np.split(decisions, np.cumsum(sizes)[:-1]), strict=True
    ):
        words = [(text[start:end], start, end) for start, end in of_text]
        frame = pd.DataFrame(words, columns=["word", "start", "end"])
        frame = pd.concat([frame, pd.DataFrame(own[0] - own[2:])], axis=1)
        frames.append(_finish(frame, classes, "occlusion", own[0], own[1]))
    return frames


def _decide(model: Any, X: Any) -> tuple[np.ndarray, list[Any]]:
    """Return decisions, or probabilities, (n_rows, n_outputs), and the classes."""
    listed = isinstance(model.classes_, list)
    classes = [] if listed else np.asarray(model.classes_).tolist()
    if hasattr(model, "decision_function") and not listed:
        decisions = np.asarray(model.decision_function(X), dtype=np.float64)
        decisions = decisions.reshape(len(decisions), -1)
        if decisions.shape[1] in (1, len(classes)):  # not of pairs of classes
            return decisions, classes
    if not hasattr(model, "predict_proba"):
        raise ExplanationError(
            f"The last step, {type(_last(model)).__name__}, has neither a decision_function with "
            "one value per class nor predict_proba. Use LogisticRegression, for example, or wrap "
            "it in CalibratedClassifierCV."
        )
    if listed or gives_several(model, X[:1]):
        names = [
            name if is_yes_or_no(own) else f"{name}_{label}"
            for name, own in outputs_of(model)
            for label in ([1] if is_yes_or_no(own) else own)
        ]
        return np.asarray(ask_each(model, X).probability, dtype=np.float64), names
    probability = np.asarray(model.predict_proba(X), dtype=np.float64)
    return probability[:, 1:] if len(classes) == 2 else probability, classes


# ---- both


def _finish(
    frame: pd.DataFrame,
    classes: list[Any],
    method: str,
    decision: np.ndarray,
    intercept: np.ndarray,
) -> pd.DataFrame:
    """Name the contribution columns and add the attrs."""
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
