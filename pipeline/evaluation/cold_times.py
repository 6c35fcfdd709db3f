"""What a fitted model costs where no cache helps it: seconds and bytes, measured on a saved copy. Used by comparison."""

import math
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from sklearn.base import BaseEstimator

_LONG_ENOUGH = 0.5  # seconds: what takes less is measured three times


class ColdCost(NamedTuple):
    """Cost of one fitted model.

    Attributes
    ----------
    predict_seconds : float
        Per 1,000 texts, by a copy that was saved and loaded: it caches nothing.
    encode_seconds : float
        Per text: what the same texts cost more there than in the fitted model, whose cache has them.
    artifact_mb : float
        Size of the joblib file, in MB of 1e6 bytes.
    """

    predict_seconds: float
    encode_seconds: float
    artifact_mb: float


UNKNOWN = ColdCost(math.nan, math.nan, math.nan)


def cold_cost(fitted: BaseEstimator, texts: np.ndarray) -> ColdCost:
    """Save a fitted model, load it, and time its predictions.

    Parameters
    ----------
    fitted : estimator
        A BertVectorizer in it has the texts in its cache, or no cache.
    texts : ndarray of str, shape (n_texts,), object
        What to predict; one text or more.

    Returns
    -------
    ColdCost
        All NaN for a model that cannot be pickled.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.joblib"
        try:
            joblib.dump(fitted, path)
        except (pickle.PicklingError, AttributeError, TypeError):
            return UNKNOWN
        size = path.stat().st_size
        copy: Any = joblib.load(path)
    cold, warm = _seconds(copy, texts), _seconds(fitted, texts)
    return ColdCost(1000 * cold / len(texts), max(0.0, cold - warm) / len(texts), size / 1e6)


def _seconds(model: Any, texts: np.ndarray) -> float:
    """Return how long predicting takes; the shortest of three times where it is quick. What is loaded once does not count."""
    model.predict(texts[:1])
    times: list[float] = []
    while len(times) < 3 and sum(times) < _LONG_ENOUGH:
        start = time.perf_counter()
        model.predict(texts)
        times.append(time.perf_counter() - start)
    return min(times)
