"""Every estimator inside a pipeline, fitted ones in meta-estimators too. Used by artifact."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator


def estimators_in(value: Any) -> Iterator[BaseEstimator]:
    """Give every estimator inside an object, each once, outermost first: of steps, of fitted attributes, of lists and dicts."""
    for one in _reach(value):
        if isinstance(one, BaseEstimator):
            yield one


def holds_memmap(value: Any) -> bool:
    """Say whether an estimator anywhere inside an object has a numpy.memmap, which skops writes and cannot read."""
    return any(isinstance(one, np.memmap) for one in _reach(value))


def _reach(value: Any) -> Iterator[Any]:
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen or one is None or isinstance(one, (str, bytes, int, float)):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseEstimator):
            waiting += vars(one).values()
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
