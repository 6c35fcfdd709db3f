"""The self-test of a saved pipeline: its answers to a few texts."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.exceptions import ArtifactError
from pipeline.vector_store import unrecorded

# Ordinary, short, of different opinions. Stored in every manifest, so old files keep theirs.
PROBES = (
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back.",
    "The soup was cold; the terrace, though, is beautiful.",
)
_METHODS = ("predict_proba", "decision_function", "predict", "transform")
# Other machines, thread counts or library versions sum in another order: up to 2e-6 in features.
TOLERANCE = 1e-3
TOLERANCE_HALF = 2e-2


def make_probes(pipeline: Any, rows: Any = None, *, half: bool = False) -> dict[str, Any]:
    """Return a fitted pipeline's answers to some rows, by default `PROBES`."""
    rows = list(PROBES) if rows is None else rows
    method = next((name for name in _METHODS if hasattr(pipeline, name)), None)
    if method is None:
        raise TypeError(f"it has none of {', '.join(_METHODS)}")
    inputs = rows.to_dict(orient="records") if isinstance(rows, pd.DataFrame) else list(rows)
    probes = {
        "method": method,
        "inputs": [str(row) if isinstance(row, str) else row for row in inputs],
        "outputs": _plain(_ask(pipeline, method, rows)),
        "tolerance": TOLERANCE_HALF if half else TOLERANCE,
    }
    if method in ("predict_proba", "decision_function") and hasattr(pipeline, "predict"):
        probes["labels"] = _plain(_ask(pipeline, "predict", rows))
    return probes


def check_probes(pipeline: Any, probes: dict[str, Any]) -> float:
    """Return the largest difference to the answers of `make_probes`, 0 for labels."""
    try:
        return _largest_difference(pipeline, probes)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"its manifest describes no probes ({type(error).__name__}: {error})"
        ) from error


def _largest_difference(pipeline: Any, probes: dict[str, Any]) -> float:
    inputs, outputs, tolerance = probes["inputs"], probes["outputs"], probes["tolerance"]
    if probes["method"] not in _METHODS:
        raise ValueError(f"method {probes['method']!r}")
    rows = pd.DataFrame(inputs) if inputs and isinstance(inputs[0], dict) else inputs
    try:
        answer = _ask(pipeline, probes["method"], rows)
    except Exception as error:
        raise ArtifactError(
            f"it cannot answer any more ({type(error).__name__}: {error})"
        ) from error
    expected = _numbers(outputs)
    if expected is None or answer.dtype.kind != "f":
        if (said := _plain(answer)) != outputs:
            raise ArtifactError(f"it gives {said}, but gave {outputs} when it was saved")
        return 0.0
    differences = np.array(np.inf)
    if answer.shape == expected.shape:
        same = (answer == expected) | (np.isnan(answer) & np.isnan(expected))
        differences = np.subtract(answer, expected, where=~same, out=np.zeros(answer.shape))
        differences = np.abs(np.where(np.isnan(differences), np.inf, differences))
    largest = float(differences.max(initial=0))
    if largest > tolerance:
        by_row = differences.reshape(len(expected), -1) if differences.ndim else differences[None]
        row = int(by_row.max(axis=-1).argmax())
        raise ArtifactError(
            f"for {inputs[row]!r} it gives {np.round(answer[row], 4).tolist()} by "
            f"{probes['method']}, but gave {np.round(expected[row], 4).tolist()} when it was saved "
            f"(tolerance {tolerance:g})"
        )
    if "labels" in probes:
        labels = _plain(_ask(pipeline, "predict", rows))
        for row, (label, before) in enumerate(zip(labels, probes["labels"], strict=True)):
            # rounding may change the label if the two best answers are within the tolerance
            clear = isinstance(label, list) or _margin(expected[row]) > 2 * tolerance
            if label != before and clear:
                raise ArtifactError(
                    f"it labels {inputs[row]!r} {label!r}, but gave {before!r} when it was saved"
                )
    return largest


def _margin(answer: np.ndarray) -> float:
    """Return the margin of the best number over the next."""
    best = np.sort(np.atleast_1d(answer))[-2:]
    return float(abs(best[-1] - best[0]) if len(best) > 1 else abs(best[0]))


def _ask(pipeline: Any, method: str, rows: Any) -> np.ndarray:
    with unrecorded():
        answer = getattr(pipeline, method)(rows)
    if isinstance(answer, list) and np.ndim(answer[0]) == 2:
        answer = np.hstack(answer)
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)


def _plain(answer: np.ndarray) -> list[Any]:
    """Return an answer in JSON types."""
    if answer.dtype.kind in "MmS":  # dates and bytes
        answer = answer.astype(str)
    if answer.dtype.kind in "fO":
        answer = answer.astype(object)
        answer[pd.isna(answer)] = None
        for infinity in (np.inf, -np.inf):
            answer[answer == infinity] = str(infinity)
    return list(answer.tolist())


def _numbers(outputs: list[Any]) -> np.ndarray | None:
    """Return stored numbers as an array, None for labels."""
    try:
        numbers = np.asarray(outputs, dtype=float)
    except (TypeError, ValueError):
        return None
    return np.hstack(list(numbers)) if numbers.ndim > 2 else numbers  # from an older file
