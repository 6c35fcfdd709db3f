"""What stands in a manifest about a pipeline: steps, classes, models, in plain JSON values. Used by artifact."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.saved.estimators import estimators_in

_WITH_MODEL = ("pipeline.vectorizer.BertVectorizer", "pipeline.finetuning.FineTunedBertClassifier")
_FITTED = (("source", "source_"), ("layers", "layers_"), ("max_length", "max_length_"))
_PARAMETERS = ("pooling", "combine", "truncation", "normalize", "weights_in_artifact")


def vectorizers_in(pipeline: Any) -> list[Any]:
    """Return every fitted BertVectorizer and FineTunedBertClassifier inside a pipeline: what carries a model."""
    return [one for one in estimators_in(pipeline) if class_name(one) in _WITH_MODEL and hasattr(one, "source_")]


def class_name(value: Any) -> str:
    """Return the full name of an object's class; a string, such as the step "passthrough", is its own name."""
    return value if isinstance(value, str) else f"{type(value).__module__}.{type(value).__qualname__}"


def describe(pipeline: Any) -> dict[str, Any]:
    """Return ``steps``, ``classes``, ``vectorizers`` and ``n_training_texts`` of a fitted pipeline, for its manifest."""
    vectorizers = vectorizers_in(pipeline)
    return {
        "steps": [[name, class_name(step)] for name, step in pipeline.steps],
        "classes": plain(list(pipeline.classes_), "classes_") if hasattr(pipeline, "classes_") else None,
        "vectorizers": [_describe_vectorizer(vectorizer) for vectorizer in vectorizers],
        "n_training_texts": max((v.truncation_report_["n_texts"] for v in vectorizers), default=None),
    }


def _describe_vectorizer(vectorizer: Any) -> dict[str, Any]:
    fitted = {name: getattr(vectorizer, attribute) for name, attribute in _FITTED if hasattr(vectorizer, attribute)}
    chosen = {name: getattr(vectorizer, name) for name in _PARAMETERS if hasattr(vectorizer, name)}
    device, dtype = vectorizer.runs_on()
    values = {"model": str(vectorizer.model), **fitted, **chosen, "device": device, "dtype": dtype}
    described: dict[str, Any] = plain(values, "the vectorizer")
    return described


def plain(value: Any, where: str) -> Any:
    """Turn a value into what JSON has: numpy's numbers and arrays become lists and numbers, NaN and infinities None.

    Raises
    ------
    TypeError
        For anything else; the message says where it stood.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(one, f"{where}[{key!r}]") for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist(), where)
    if isinstance(value, (list, tuple)):
        return [plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; a manifest holds numbers, strings, lists and dicts of them.")
