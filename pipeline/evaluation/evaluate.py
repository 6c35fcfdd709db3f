"""Evaluate a fitted classifier on held-out texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import Pipeline

from pipeline.answers import (
    Judged,
    answer_features,
    check_classifier,
    features_before_last_step,
    is_most_probable,
    label_probability,
    positions,
    warn_of_other_labels,
)
from pipeline.evaluation.failures import (
    find_duplicates,
    find_examples,
    find_mistakes,
    slice_by,
    slices_by_length,
    texts_of,
)
from pipeline.evaluation.metrics import (
    bootstrap_intervals,
    calibration_table,
    class_table,
    classification_scores,
    score_curves,
)

MOST_CHARACTERS = 200  # of a point's text: a map of long texts must not become a copy of them


def map_embeddings(
    features: Any,
    texts: Sequence[str],
    judged: Judged,
    *,
    n_points: int,
    random_state: int,
) -> dict[str, Any] | None:
    """Put texts on a plane: those near each other have similar features.

    Parameters
    ----------
    features : array, sparse matrix or DataFrame of shape (n_texts, n_features), or str
        What the last step gets; a str is the reason why there is none.
    texts : sequence of str, length n_texts
    judged : Judged
        The same texts.
    n_points : int
        Of more texts so many are drawn at random; 0 makes no map.
    random_state : int
        Of the drawing.

    Returns
    -------
    dict or None
        ``method``, ``explained_variance`` (the share of each axis) and ``points``: ``row``, ``x``, ``y``, ``text`` (its first 200
        characters), ``true``, ``predicted``, ``probability`` (of what was predicted; None for a label
        that is no class). Or ``refused``, the reason. None for no
        points.
    """
    if not n_points:
        return None
    if isinstance(features, str):
        return {"refused": features}
    rows = np.arange(len(texts))
    if len(texts) > n_points:
        rows = np.sort(
            np.random.default_rng(random_state).choice(rows, size=n_points, replace=False)
        )
    chosen = features.iloc[rows] if hasattr(features, "iloc") else features[rows]
    dense = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, dtype=np.float64)
    if min(dense.shape) < 2:
        return {
            "refused": f"a map needs two texts and two features at least; here are {dense.shape[0]} and {dense.shape[1]}."
        }
    places, shares = _flat(dense)
    points = [
        {
            "row": row,
            "x": float(x),
            "y": float(y),
            "text": texts[row][:MOST_CHARACTERS],
            **judged.said(row),
        }
        for row, (x, y) in zip(rows.tolist(), places, strict=True)
    ]
    return {"method": "PCA", "explained_variance": shares, "points": points}


def _flat(dense: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return places, shape (n_texts, 2), and the share of the variance along each axis."""
    centred = dense - dense.mean(axis=0)
    if not np.abs(centred).max() > 1e-9 * max(
        np.abs(dense).max(), 1e-300
    ):  # the same text again and again: PCA would divide by 0
        return np.zeros((len(dense), 2)), [0.0, 0.0]
    # two axes of hundreds: a full decomposition would cost as much as encoding the texts
    pca = PCA(
        n_components=2, svd_solver="arpack" if min(dense.shape) > 2 else "full", random_state=0
    )
    return pca.fit_transform(centred), pca.explained_variance_ratio_.tolist()


def evaluate(
    model: BaseEstimator,
    X: Any,
    y: Any,
    *,
    by: "pd.DataFrame | Mapping[str, Sequence[Any]] | None" = None,
    train: tuple[Any, Any] | None = None,
    n_mistakes: int = 10,
    n_examples: int = 4,
    n_map: int = 500,
    n_bootstrap: int = 1000,
    random_state: int = 0,
) -> dict[str, Any]:
    """Score a fitted classifier on texts it has not seen: how good, how sure of it, where it fails, and on which texts.

    The labels are those of the model's ``predict``; probabilities stand beside them.

    Parameters
    ----------
    model : estimator
        Fitted, with ``predict_proba`` and ``classes_``.
    X : iterable of str, length n_texts
        Texts.
    y : array-like of shape (n_texts,)
        Their labels.
    by : DataFrame or mapping of str to sequence, optional
        Columns to score by, each of length n_texts, such as the domain of each text.
    train : (X_train, y_train), optional
        The training texts and labels: for the training texts nearest to each mistake, and to find texts that are in both sets.
    n_mistakes : int, default=10
        How many of the most confident mistakes to list.
    n_examples : int, default=4
        How many right predictions to explain, the surest of each class in turn.
    n_map : int, default=500
        Most points of the map of the texts; 0 leaves it out.
    n_bootstrap : int, default=1000
        Resampled sets behind the intervals; 0 leaves them out.
    random_state : int, default=0
        Of the resampling, and of the texts on the map.

    Returns
    -------
    dict
        Plain numbers, strings, lists and dicts. ``n_texts``; ``classes``, those of the model and then labels that it predicts
        beside them, such as that of a reject option; ``n_not_most_probable``, how many labels are not the most probable class;
        the scores of
        `pipeline.evaluation.metrics.classification_scores` (``accuracy``, ``balanced_accuracy``, ``f1``, ``macro_f1``,
        ``roc_auc``, ``average_precision``, ``log_loss``, ``brier``, ``calibration_error``); ``intervals`` (95 %, of each score);
        ``confusion_matrix`` (rows are true); ``by_class``; ``curves`` (ROC and precision-recall, see
        `pipeline.evaluation.metrics.score_curves`); ``calibration``; ``slices`` (name -> scores by length, by truncation where
        the model begins with a BertVectorizer, and by each column of ``by``); ``mistakes`` (``row``, ``text``, ``true``,
        ``predicted``, ``probability``, ``explanation``, ``nearest`` training texts); ``examples`` (the same of right
        predictions, without ``nearest``); ``map`` (the texts on a plane, see
        `pipeline.evaluation.evaluate.map_embeddings`; None for ``n_map=0``); ``duplicates`` (None without ``train``).
        `pipeline.write_report` makes a page of it.

    Raises
    ------
    ValueError
        For labels the model does not know, for lengths that differ, for no texts, and for models that give no probabilities or
        several labels per text.

    Warns
    -----
    LabelWarning
        Where ``predict`` gives other labels than the most probable classes.
    """
    X = (
        X if hasattr(X, "__len__") else list(X)
    )  # a table stays one: of a DataFrame list() would give the column names
    texts = texts_of(X)
    check_classifier(model)
    classes = np.asarray(model.classes_).tolist()
    true = class_positions(len(texts), y, classes)
    columns = {} if by is None else {str(name): list(values) for name, values in by.items()}
    for name, values in columns.items():
        if len(values) != len(texts):
            raise ValueError(
                f"by[{name!r}] has {len(values)} values for {len(texts)} texts; give one for each."
            )
    features = features_before_last_step(model, X)
    answers = answer_features(model, features)
    predicted, others = positions(answers.labels, classes)
    probability, labels = answers.probability, classes + others
    most_probable = is_most_probable(predicted, probability)
    warn_of_other_labels(most_probable, f"the {type(model).__name__}")
    if type(model) is not Pipeline or len(model.steps) < 2:
        features = f"a {type(model).__name__} shows no features before its last step."
    right = predicted == true
    scored, judged = (
        (true, predicted, probability),
        Judged(true, predicted, label_probability(predicted, probability), labels),
    )
    return {
        "n_texts": len(texts),
        "classes": labels,
        "n_not_most_probable": int((~most_probable).sum()),
        **classification_scores(*scored),
        "intervals": bootstrap_intervals(*scored, n_samples=n_bootstrap, random_state=random_state),
        "confusion_matrix": confusion_matrix(true, predicted, labels=range(len(labels))).tolist(),
        "by_class": class_table(true, predicted, labels),
        "curves": score_curves(true, probability, classes),
        "calibration": calibration_table(true, probability),
        "slices": {
            **slices_by_length(model, X, right),
            **{f"by {n}": slice_by(v, right) for n, v in columns.items()},
        },
        "mistakes": find_mistakes(model, X, judged, n=n_mistakes, train=train),
        "examples": find_examples(model, X, judged, n=n_examples),
        "map": map_embeddings(features, texts, judged, n_points=n_map, random_state=random_state),
        "duplicates": None
        if train is None
        else find_duplicates(texts, [classes[i] for i in true], *train),
    }


def class_positions(n_texts: int, y: Any, classes: list[Any]) -> np.ndarray:
    """Return positions of the true classes, shape (n_texts,)."""
    labels = list(y)
    if getattr(y, "ndim", 1) > 1 or any(
        isinstance(label, list | tuple | np.ndarray) for label in labels
    ):
        raise ValueError(
            "y holds several labels per text; one class label per text is expected, such as y['label']."
        )
    found, unknown = positions(labels, classes)
    if unknown:
        raise ValueError(
            f"y holds labels the model does not know: {', '.join(sorted(repr(str(label)) for label in unknown))}; it knows "
            f"{', '.join(map(repr, classes))}."
        )
    if len(found) != n_texts:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n_texts} texts and {len(found)} labels."
        )
    if not n_texts:
        raise ValueError("Found array with 0 sample(s): there is no text to score.")
    return found
