"""ROC and precision-recall curves as lists of numbers, thinned to what a picture shows. Used by evaluation."""

from typing import Any

import numpy as np
from sklearn.metrics import auc, precision_recall_curve, roc_curve

MOST_POINTS = 101  # of a curve: finer than a picture shows, and the areas stay right to about 0.001


def score_curves(
    true: np.ndarray, probability: np.ndarray, classes: list[Any], *, most: int = MOST_POINTS
) -> list[dict[str, Any]]:
    """Return the ROC and the precision-recall curve of each class against the rest.

    Parameters
    ----------
    true : ndarray of shape (n_texts,), int64
        Positions of the true classes.
    probability : ndarray of shape (n_texts, n_classes)
    classes : list, length n_classes
        Their names.
    most : int, default=101
        Points of a curve; a longer one is thinned evenly along its length, both ends kept. Areas are those of the whole curve.

    Returns
    -------
    list of dict
        Of two classes the second alone, of more each one: ``class``, ``n_texts`` (true ones of it), ``roc_auc``,
        ``average_precision``, ``roc`` (``false_positive_rate``, ``true_positive_rate``) and ``precision_recall`` (``recall``,
        ``precision``), lists of numbers. A class without a text, or without a text that is not of it, has no curve and is left
        out.

    References
    ----------
    .. [1] Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27, 2006.
    """
    shown = [1] if len(classes) == 2 else range(len(classes))
    there = set(np.unique(true).tolist())
    return [_of_class(true == i, probability[:, i], classes[i], most) for i in shown if i in there and len(there) > 1]


def _of_class(positive: np.ndarray, score: np.ndarray, label: Any, most: int) -> dict[str, Any]:
    false_rate, true_rate, _ = roc_curve(positive, score)
    precision, recall, _ = precision_recall_curve(positive, score)
    return {
        "class": label,
        "n_texts": int(positive.sum()),
        "roc_auc": float(auc(false_rate, true_rate)),
        "average_precision": float(-np.sum(np.diff(recall) * precision[:-1])),  # as scikit-learn's, of the curve at hand
        "roc": _thinned({"false_positive_rate": false_rate, "true_positive_rate": true_rate}, most),
        "precision_recall": _thinned({"recall": recall[::-1], "precision": precision[::-1]}, most),
    }


def _thinned(curve: dict[str, np.ndarray], most: int) -> dict[str, list[float]]:
    """Keep points at even steps along the curve, whose length is measured along both axes."""
    points = np.stack(list(curve.values()))  # (2, n_points)
    if points.shape[1] > most:
        along = np.concatenate([[0.0], np.abs(np.diff(points)).sum(axis=0).cumsum()])
        kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most)))
        points = points[:, np.union1d(kept[:most], [0, points.shape[1] - 1])]
    return {name: values.tolist() for name, values in zip(curve, points, strict=True)}
