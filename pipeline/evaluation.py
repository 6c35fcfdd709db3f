"""How good is a model: evaluate on held-out texts, compare by cross-validation with the honest baselines. Used by cli."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline.sentiment import make_sentiment_pipeline
from pipeline.texts import check_labels, check_texts

METRICS = ("accuracy", "f1", "roc_auc")


def make_tfidf_baseline() -> Pipeline:
    """Return TF-IDF + LogisticRegression, the baseline that every comparison shows.

    Words and word pairs with sublinear counts and ``C=30``, chosen by the same cross-validation as our own defaults
    (``docs/defaults.md``): a baseline is only honest if it was tuned as well.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted.
    """
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode"), LogisticRegression(C=30, max_iter=1000)
    )


def evaluate(model: BaseEstimator, X: Any, y: Any) -> dict[str, Any]:
    """Score a fitted classifier on texts it has not seen.

    Parameters
    ----------
    model : estimator
        Fitted, with ``predict_proba`` and ``classes_``.
    X : iterable of str, length n_texts
        Texts.
    y : array-like of shape (n_texts,)
        Their labels.

    Returns
    -------
    dict
        ``n_texts``, ``classes``, ``accuracy``, ``f1`` (of the second class where there are two, else macro), ``roc_auc``
        (one-vs-rest macro where there are more than two; None where a class is absent) and ``confusion_matrix`` (rows are true).

    Raises
    ------
    ValueError
        For labels the model does not know, and for lengths that differ.
    """
    classes = np.asarray(model.classes_).tolist()
    labels = list(y)
    unknown = sorted({str(label) for label in labels} - {str(c) for c in classes})
    if unknown:
        raise ValueError(
            f"y holds labels the model does not know: {', '.join(map(repr, unknown))}; it knows {', '.join(map(repr, classes))}."
        )
    probability = np.asarray(model.predict_proba(X))  # (n_texts, n_classes)
    if len(labels) != len(probability):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {len(probability)} texts and {len(labels)} labels."
        )
    # compare as positions: labels read from a file are text where those of a DataFrame are numbers
    position = {str(c): i for i, c in enumerate(classes)}
    true = np.array([position[str(label)] for label in labels], dtype=np.int64)
    predicted = probability.argmax(axis=1)
    binary = len(classes) == 2
    return {
        "n_texts": len(labels),
        "classes": classes,
        "accuracy": float(accuracy_score(true, predicted)),
        "f1": float(f1_score(true, predicted, average="binary" if binary else "macro", zero_division=0.0)),
        "roc_auc": _roc_auc(true, probability, binary),
        "confusion_matrix": confusion_matrix(true, predicted, labels=range(len(classes))).tolist(),
    }


def _roc_auc(true: np.ndarray, probability: np.ndarray, binary: bool) -> float | None:
    if len(np.unique(true)) < probability.shape[1]:
        return None
    if binary:
        return float(roc_auc_score(true, probability[:, 1]))
    return float(roc_auc_score(true, probability, multi_class="ovr", average="macro"))


def compare(X: Any, y: Any, *, model: BaseEstimator | None = None, cv: int = 5, random_state: int = 0) -> pd.DataFrame:
    """Cross-validate the majority class, TF-IDF and a BERT pipeline on the same folds.

    Parameters
    ----------
    X : iterable of str, length n_texts
        Texts.
    y : array-like of shape (n_texts,)
        Labels.
    model : estimator, optional
        The pipeline to compare; `make_sentiment_pipeline()` by default.
    cv : int, default=5
        Number of stratified, shuffled folds.
    random_state : int, default=0
        Of the folds.

    Returns
    -------
    DataFrame
        One row per model (``majority``, ``TF-IDF + LogisticRegression``, ``frozen BERT + LogisticRegression``); columns
        ``accuracy``, ``f1``, ``roc_auc`` (means over the folds), the same with ``_sd`` (standard deviation over the folds), and
        ``fit_seconds`` (mean).
    """
    texts = check_texts(X)
    check_labels(y, len(texts))
    labels = np.asarray(y)
    folds = list(StratifiedKFold(cv, shuffle=True, random_state=random_state).split(texts, labels))
    candidates: Sequence[tuple[str, BaseEstimator]] = (
        ("majority", DummyClassifier(strategy="most_frequent")),
        ("TF-IDF + LogisticRegression", make_tfidf_baseline()),
        ("frozen BERT + LogisticRegression", make_sentiment_pipeline() if model is None else model),
    )
    rows = {name: _cross_validate(candidate, texts, labels, folds) for name, candidate in candidates}
    return pd.DataFrame.from_dict(rows, orient="index")


def _cross_validate(candidate: BaseEstimator, texts: list[str], labels: np.ndarray, folds: list[Any]) -> dict[str, float]:
    def score(fitted: BaseEstimator, X: Any, y: Any) -> dict[str, float]:
        scores = evaluate(fitted, X, y)
        return {metric: np.nan if scores[metric] is None else scores[metric] for metric in METRICS}

    results = cross_validate(candidate, np.array(texts, dtype=object), labels, cv=folds, scoring=score, error_score="raise")
    row = {metric: float(results[f"test_{metric}"].mean()) for metric in METRICS}
    row |= {f"{metric}_sd": float(results[f"test_{metric}"].std(ddof=1)) for metric in METRICS}
    return row | {"fit_seconds": float(results["fit_time"].mean())}
