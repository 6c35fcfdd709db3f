"""The self-test of a saved pipeline: what it said of a few texts, and whether it still does. Used by artifact."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.exceptions import ProbeError
from pipeline.vector_store import unrecorded

# Ordinary, short, and not all of one opinion. Part of every manifest: a change here changes no old file.
PROBES = (
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back.",
    "The soup was cold; the terrace, though, is beautiful.",
)
_METHODS = ("predict_proba", "decision_function", "predict", "transform")
# Another machine, thread count or library version adds in another order. Seen between batches: 2e-6 in features.
TOLERANCE = 1e-3
TOLERANCE_HALF = 2e-2  # made in half precision, and perhaps read in full


def make_probes(pipeline: Any, rows: Any = None, *, half: bool = False) -> dict[str, Any]:
    """Ask a pipeline, and keep the answer.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted.
    rows : list of str, DataFrame or array of str, optional
        What to ask; `PROBES` by default.
    half : bool, default=False
        Whether its features were computed in half precision.

    Returns
    -------
    dict
        ``method``, ``inputs`` (texts, or one dict per row of a table), ``outputs``, ``tolerance``, and beside probabilities or
        decisions the ``labels`` of ``predict``.
    """
    asked = list(PROBES) if rows is None else rows
    method = next(name for name in _METHODS if hasattr(pipeline, name))
    answer = _ask(pipeline, method, asked)
    inputs = asked.to_dict(orient="records") if isinstance(asked, pd.DataFrame) else list(asked)
    kept = [str(one) if isinstance(one, str) else one for one in inputs]
    probes = {
        "method": method,
        "inputs": kept,
        "outputs": answer.tolist(),
        "tolerance": TOLERANCE_HALF if half else TOLERANCE,
    }
    if method in ("predict_proba", "decision_function") and hasattr(pipeline, "predict"):
        probes["labels"] = _ask(pipeline, "predict", asked).tolist()
    return probes


def check_probes(pipeline: Any, probes: dict[str, Any]) -> float:
    """Ask a pipeline again.

    Parameters
    ----------
    pipeline : Pipeline
        As opened.
    probes : dict
        From `make_probes`.

    Returns
    -------
    float
        The largest absolute difference; for labels 0.

    Raises
    ------
    ProbeError
        Where an answer differs by more than the tolerance, or a label differs that no rounding can have changed.
    """
    inputs = probes["inputs"]
    rows = pd.DataFrame(inputs) if inputs and isinstance(inputs[0], dict) else inputs
    try:
        answer = _ask(pipeline, probes["method"], rows)
    except Exception as error:  # whatever it is: it could answer once
        raise ProbeError(f"it cannot answer any more ({type(error).__name__}: {error})") from error
    expected = np.asarray(probes["outputs"])
    if expected.dtype.kind != "f" or answer.dtype.kind != "f":
        if answer.tolist() != probes["outputs"]:
            raise ProbeError(f"it says {answer.tolist()}, and said {probes['outputs']}")
        return 0.0
    difference = np.abs(answer - expected).max() if answer.shape == expected.shape else np.inf
    if not difference <= probes["tolerance"]:  # so that NaN fails
        row = (
            int(np.abs(answer - expected).reshape(len(expected), -1).max(axis=1).argmax())
            if np.isfinite(difference)
            else 0
        )
        raise ProbeError(
            f"of {inputs[row]!r} it says {np.round(answer[row], 4).tolist()} by {probes['method']}, and said "
            f"{np.round(expected[row], 4).tolist()} when it was saved (tolerance {probes['tolerance']:g})"
        )
    if "labels" in probes:
        _check_labels(_ask(pipeline, "predict", rows).tolist(), probes, expected)
    return float(difference)


def _check_labels(labels: list[Any], probes: dict[str, Any], expected: np.ndarray) -> None:
    """Compare labels with those of then; where the two best answers lie within the tolerance, rounding may change the label."""
    for row, (label, before) in enumerate(zip(labels, probes["labels"], strict=True)):
        if label != before and (
            expected.ndim > 2 or _margin(expected[row]) > 2 * probes["tolerance"]
        ):
            raise ProbeError(
                f"it labels {probes['inputs'][row]!r} {label!r}, and said {before!r} when it was saved"
            )


def _margin(answer: np.ndarray) -> float:
    """Return how far the best of several numbers is above the next, or a single one from 0."""
    best = np.sort(np.atleast_1d(answer))[-2:]
    return float(abs(best[-1] - best[0]) if len(best) > 1 else abs(best[0]))


def _ask(pipeline: Any, method: str, rows: Any) -> np.ndarray:
    with unrecorded():
        answer = getattr(pipeline, method)(rows)
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
