"""Open a saved file and check it: kind, manifest, names, then its answers to a few texts."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.exceptions import ArtifactError, CheckpointError
from pipeline.files import fetched, file_moment, naming, sha256_of
from pipeline.saved.allow_list import not_allowed, refuse_names
from pipeline.saved.joblib_file import read_contents, unpickle_allowed
from pipeline.saved.manifest import (
    Manifest,
    fitting,
    manifest_path,
    manifest_place,
    read_manifest,
)
from pipeline.saved.signing import signature_place, signed_values, unsigned
from pipeline.saved.skops_file import read_skops, skops_schema
from pipeline.vector_store import unrecorded


def file_kind(path: Path) -> Literal["joblib", "skops"]:
    """Return the format of a saved pipeline by its content, or raise."""
    if not path.is_file():
        problem = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {problem}; train writes one.")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x80"):  # every pickle since protocol 2 starts like this
        return "joblib"
    if head.startswith(b"PK") and skops_schema(path) is not None:
        return "skops"
    raise ArtifactError(f"{path} is not a saved pipeline: {_other_kind(head)}.")


def _other_kind(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; the download went wrong"
    if head.startswith(b"PK"):
        return "it is a zip archive, complete or truncated, and not a .skops file"
    if head.startswith((b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22M\x18")):
        return (
            "it is compressed, and a compressed file cannot be memory-mapped; load it with "
            "joblib.load and save it again"
        )
    return "it is not a joblib file"


_ATTEMPTS = 100  # to find a file with its manifest while others save


def open_file(
    place: Path | str,
    *,
    hashed: bool,
    sha256: str | None,
    trusted: frozenset[str],
    keys: Mapping[str, Any] | None = None,
) -> tuple[Any, Manifest | None]:
    """Open a saved file with its matching manifest."""
    beside = [manifest_place(place)]
    if keys is not None:
        beside.append(signature_place(beside[0]))
    for _ in range(_ATTEMPTS):
        before = _moment(place, *beside)
        try:
            with fetched(place, *beside) as path:
                kind = file_kind(path)
                manifest = _matching_manifest(path, hashed, sha256, keys)
                opened = _read(path, kind, trusted, mapped=path is place)
        except (ArtifactError, FileNotFoundError):
            if _moment(place, *beside) == before:
                raise
            continue
        if _moment(place, *beside) == before:  # otherwise two files may have been read and mapped
            return opened, manifest
    raise ArtifactError(
        f"{place} was replaced {_ATTEMPTS} times while it was opened: another process keeps saving "
        "to it."
    )


def _moment(*files: Path | str) -> list[Any]:
    """Return values that change when one of the files is replaced."""
    moment: list[Any] = []
    for file in files:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            inode = file.stat().st_ino if isinstance(file, Path) else None
            moment.append([file, inode, *file_moment(str(file))])
    return moment


def _matching_manifest(
    path: Path, hashed: bool, sha256: str | None, keys: Mapping[str, Any] | None
) -> Manifest | None:
    values = read_manifest(path)
    source, size = manifest_path(path), path.stat().st_size
    actual = sha256_of(path) if hashed or sha256 is not None else None
    if sha256 is not None and actual != sha256.lower():
        raise ArtifactError(
            f"{path} is not the requested file: it has sha256 {actual}, not {sha256}."
        )
    if values is None:
        if keys is not None:
            raise unsigned(path, f"it has no manifest, {source.name}, that could be signed")
        return None
    matching = fitting(values, size, actual)
    if not matching:
        difference = (
            f"{size} bytes, not {values['size']}"
            if size != values["size"]
            else f"sha256 {actual}, not {values['sha256']}"
        )
        raise ArtifactError(
            f"{path} is not the file that was saved: it has {difference}, as {source.name} says. "
            "It is damaged, truncated or was changed. Copy it again or train a new one. If another "
            "program wrote it on purpose, delete the manifest."
        )
    chosen = matching[0] if keys is None else signed_values(path, source, values, matching, keys)
    found = Manifest.of(chosen, source)
    return found if found.versions else None  # of a file that had none, and is being replaced


def _read(path: Path, kind: str, trusted: frozenset[str], *, mapped: bool) -> Any:
    try:
        with naming(path):
            if kind == "skops":
                return read_skops(path, trusted)
            refuse_names(path, not_allowed(read_contents(path).names, trusted))
            return unpickle_allowed(path, trusted, mapped=mapped)
    except (ArtifactError, Warning, OSError):
        raise
    except Exception as error:
        raise ArtifactError(_problem(path, error)) from error


def _problem(path: Path, error: Exception) -> str:
    if isinstance(error, CheckpointError):
        return f"{path}: {error}"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{path} needs the module {error.name!r}, which cannot be found. If it starts with "
            "'pipeline', a local file or folder is shadowing the package; run Python from another "
            "directory."
        )
    if isinstance(error, ImportError):
        return str(error)
    if isinstance(error, AttributeError):
        return (
            f"{path} needs a name that its module does not have here: {error}. Define or import it "
            "first."
        )
    return (
        f"{path} is damaged or truncated ({type(error).__name__}: {error}). Copy it again or train "
        "a new one."
    )


# ---- answers to probe texts

# Ordinary, short, of different opinions. Stored in every manifest, so old files keep theirs.
PROBES = (
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back.",
    "The soup was cold; the terrace, though, is beautiful.",
)
_METHODS = ("predict_proba", "decision_function", "predict", "transform")
# other machines, thread counts or libraries sum in another order: up to 2e-6 in features
TOLERANCE = 1e-3
TOLERANCE_HALF = 2e-2


def make_probes(pipeline: Any, rows: Any = None, *, half: bool = False) -> dict[str, Any]:
    """Return a pipeline's answers to rows, by default `PROBES`."""
    rows = list(PROBES) if rows is None else rows
    method = next((name for name in _METHODS if hasattr(pipeline, name)), None)
    if method is None:
        raise TypeError(f"it has none of {', '.join(_METHODS)}")
    probes = {
        "method": method,
        "inputs": rows.to_dict("records") if isinstance(rows, pd.DataFrame) else list(rows),
        "outputs": _plain(_ask(pipeline, method, rows)),
        "tolerance": TOLERANCE_HALF if half else TOLERANCE,
    }
    if method in ("predict_proba", "decision_function") and hasattr(pipeline, "predict"):
        probes["labels"] = _plain(_ask(pipeline, "predict", rows))
    return probes


def check_probes(pipeline: Any, probes: dict[str, Any]) -> float:
    """Return the largest difference to earlier answers, 0 for labels."""
    try:
        return _largest_difference(pipeline, probes)
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
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
