"""A map of the texts: the features before the last step, drawn flat by PCA. Used by evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from pipeline.answers import Judged

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
        rows = np.sort(np.random.default_rng(random_state).choice(rows, size=n_points, replace=False))
    chosen = features.iloc[rows] if hasattr(features, "iloc") else features[rows]
    dense = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, dtype=np.float64)
    if min(dense.shape) < 2:
        return {"refused": f"a map needs two texts and two features at least; here are {dense.shape[0]} and {dense.shape[1]}."}
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
    pca = PCA(n_components=2, svd_solver="arpack" if min(dense.shape) > 2 else "full", random_state=0)
    return pca.fit_transform(centred), pca.explained_variance_ratio_.tolist()
