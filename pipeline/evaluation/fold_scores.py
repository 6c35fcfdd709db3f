"""One kind of features on one fold: C chosen inside the training rows, then the score on the test rows. Used by layer_scores."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import normalize

from pipeline.bert.pooling import combine_layers
from pipeline.evaluation.logistic_path import fit_logistic_path
from pipeline.layer_mix import apply_layer_mix, learn_layer_mix

INNER_FOLDS = 3


class FoldResult(NamedTuple):
    """What one fold says of one row: mean inner score of every C, position of the chosen C, score on the fold's test texts."""

    inner: np.ndarray
    chosen: int
    score: float


def score_fold(
    vectors: np.ndarray,
    combine: str,
    unit_length: bool,
    codes: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    Cs: list[float],
    scorer: Callable[..., float],
    random_state: int,
) -> FoldResult:
    """Choose C within the training rows, fit to all of them, and score on the test rows.

    Parameters
    ----------
    vectors : ndarray of shape (n_texts, 1, n_layers, hidden_size)
        Of all texts.
    combine : {"concat", "mean", "sum", "learned"}
        How the layers become one vector.
    unit_length : bool
        Whether it is then divided by its length.
    codes : ndarray of shape (n_texts,), int
        The class of each text, 0, 1, ...
    train, test : ndarray of int
        The rows of the fold.
    Cs : list of float
        Ascending.
    scorer : callable
        As of scikit-learn.
    random_state : int
        Of the inner folds.

    Returns
    -------
    FoldResult
    """
    inside, y = vectors[train], codes[train]
    inner_folds = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=random_state).split(y, y)
    parts = np.zeros((INNER_FOLDS, len(train)), dtype=bool)
    for part, (rows, _) in zip(parts, inner_folds, strict=True):
        part[rows] = True
    inner = np.empty((INNER_FOLDS, len(Cs)))
    if combine == "learned":  # each part learns its own mix, and so has its own features
        for i, part in enumerate(parts):
            (X,) = _make_features(combine, unit_length, inside[part], y[part], inside)
            inner[i] = _path_scores(X, y, part[None], Cs, scorer)[0]
    else:
        (X,) = _make_features(combine, unit_length, inside, y, inside)
        inner[:] = _path_scores(X, y, parts, Cs, scorer)
    mean = inner.mean(axis=0)
    chosen = int(mean.argmax())
    X, X_test = _make_features(combine, unit_length, inside, y, inside, vectors[test])
    weights, intercepts = fit_logistic_path(X, y, np.ones((1, len(y)), dtype=bool), [Cs[chosen]])
    head = _head(weights[0, 0], intercepts[0, 0], Cs[chosen], X.dtype)
    return FoldResult(mean, chosen, float(scorer(head, X_test, codes[test])))


def _make_features(combine: Any, unit_length: bool, fit_to: np.ndarray, y: np.ndarray, *vectors: np.ndarray) -> list[np.ndarray]:
    """Make features as `BertVectorizer` does; what is learnt is learnt from ``fit_to`` and ``y`` alone."""
    if combine == "learned":
        mix = learn_layer_mix(np.ascontiguousarray(fit_to), y)
        features = [apply_layer_mix(some, mix) for some in vectors]
    else:
        features = [combine_layers(some, combine) for some in vectors]
    return [normalize(some) for some in features] if unit_length else features


def _path_scores(X: np.ndarray, y: np.ndarray, parts: np.ndarray, Cs: list[float], scorer: Callable[..., float]) -> np.ndarray:
    """Fit to each part with each C, and score on the other rows: shape (n_parts, n_C)."""
    weights, intercepts = fit_logistic_path(X, y, parts, Cs)
    scores = np.empty(weights.shape[:2])
    for i, part in enumerate(parts):
        held_out, labels = X[~part], y[~part]
        for j, C in enumerate(Cs):
            scores[i, j] = scorer(_head(weights[i, j], intercepts[i, j], C, X.dtype), held_out, labels)
    return scores


def _head(weights: np.ndarray, intercepts: np.ndarray, C: float, dtype: Any) -> LogisticRegression:
    """Make a fitted classifier of coefficients, for scikit-learn's scorers."""
    head = LogisticRegression(C=C)
    head.coef_, head.intercept_ = weights.astype(dtype), intercepts.astype(dtype)
    head.classes_ = np.arange(max(2, len(weights)))
    head.n_features_in_ = weights.shape[1]
    return head
