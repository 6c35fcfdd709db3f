"""The manifest beside a saved file: hashes, versions, contents, probe texts."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from pipeline import __version__
from pipeline.exceptions import ArtifactError, CheckpointError
from pipeline.files import fetched, file_size, flush_to_disk, put, sha256_of, write_text
from pipeline.saved.allow_list import name_of
from pipeline.saved.signing import is_signed, manifest_text, signed

# packages that decide a pipeline's numbers or its file format
PACKAGES = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy", "joblib")


@cache
def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of `PACKAGES`."""
    versions = {package: _installed(package) for package in PACKAGES}
    return {"pipeline": __version__, "python": platform.python_version(), **versions}


def refuse_newer_state(name: str, made_with: Mapping[str, Any], known: int) -> None:
    """Raise for a saved state that is too new."""
    if made_with["state_version"] > known:
        raise CheckpointError(
            f"This {name} was saved by version {made_with['pipeline']} of pipeline, in state "
            f"{made_with['state_version']}; this is version {__version__}, which knows states up "
            f"to {known}. Upgrade to open it."
        )


def differing_versions(made_with: Mapping[str, str]) -> list[str]:
    """Return differences to the installed versions: ``"torch 2.12.1, here 2.13.0"``."""
    return [
        f"{package} {made_with[package]}, here {_installed(package)}"
        for package in PACKAGES
        if package != "joblib"
        and package in made_with
        and _compared(package, made_with[package]) != _compared(package, _installed(package))
    ]


def _compared(package: str, version: str) -> list[str]:
    # scikit-learn itself compares full versions
    return [version] if package == "scikit-learn" else version.partition("+")[0].split(".")[:2]


def parts_of(value: Any) -> Iterator[Any]:
    """Yield an object and everything inside, each once."""
    seen: set[int] = set()
    waiting = deque([value])
    while waiting:
        part = waiting.popleft()
        if id(part) in seen or part is None or isinstance(part, (str, bytes, int, float)):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, BaseEstimator):
            waiting += vars(part).values()
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part


_WITH_MODEL = ("pipeline.vectorizer.BertVectorizer", "pipeline.finetuning.FineTunedBertClassifier")
_RECORDED = {
    "source": "source_",
    "layers": "layers_",
    "max_length": "max_length_",
    "pooling": "pooling",
    "prompt": "prompt_",
    "combine": "combine",
    "truncation": "truncation",
    "normalize": "normalize",
    "weights_in_artifact": "weights_in_artifact",
}


def vectorizers_in(pipeline: Any) -> list[Any]:
    """Return every fitted estimator with a model inside a pipeline."""
    return [
        part
        for part in parts_of(pipeline)
        if name_of(type(part)) in _WITH_MODEL and hasattr(part, "source_")
    ]


def describe(
    pipeline: Any, n_training_texts: int | None, columns: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the manifest's description of a fitted pipeline."""
    vectorizers = vectorizers_in(pipeline)
    classes = getattr(pipeline, "classes_", None)
    if isinstance(classes, np.ndarray) and classes.dtype.kind in "MmS":  # dates and bytes
        classes = classes.astype(str)
    if n_training_texts is None:
        n_texts = (vectorizer.truncation_report_["n_texts"] for vectorizer in vectorizers)
        n_training_texts = max(n_texts, default=None)
    return {
        "steps": [
            [name, step if isinstance(step, str) else name_of(type(step))]
            for name, step in pipeline.steps
        ],
        "classes": None if classes is None else plain(list(classes), "classes_"),
        "vectorizers": [_describe_vectorizer(vectorizer) for vectorizer in vectorizers],
        "n_training_texts": None if n_training_texts is None else int(n_training_texts),
        "columns": plain(columns, "columns"),
    }


def _describe_vectorizer(vectorizer: Any) -> dict[str, Any]:
    recorded = {
        name: getattr(vectorizer, attribute)
        for name, attribute in _RECORDED.items()
        if hasattr(vectorizer, attribute)
    }
    device, dtype = vectorizer.runs_on()
    values = {"model": str(vectorizer.model), **recorded, "device": device, "dtype": dtype}
    return dict(plain(values, "the vectorizer"))


def plain(value: Any, where: str) -> Any:
    """Convert a value to JSON types; errors name `where`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist(), where)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__}; a manifest holds numbers, strings, lists and dicts "
        "of them."
    )


FORMAT_VERSION = 2  # 2: columns
_OPTIONAL = {"n_training_texts", "scores", "columns"}
# while a file is replaced: the manifest of the one before
_REPLACES = "replaces"
_KINDS: dict[str, Any] = {
    "size": int,
    "steps": list,
    "classes": list | None,
    "vectorizers": list,
    "n_training_texts": int | None,
    **dict.fromkeys(("file", "format", "sha256", "created"), str),
    **dict.fromkeys(("probes", "scores", "columns"), dict | None),
}


@dataclass(frozen=True)
class Manifest:
    """Facts about a saved file (docs/artifact-format.md)."""

    file: str  # name without folders
    format: str  # "joblib" or "skops"
    size: int
    sha256: str
    created: str  # UTC, ISO 8601
    versions: dict[str, str]
    steps: list[list[str]]  # name and class
    classes: list[Any] | None
    vectorizers: list[dict[str, Any]]
    probes: dict[str, Any] | None
    n_training_texts: int | None = None
    scores: dict[str, Any] | None = None
    columns: dict[str, str] | None = None  # "text" and "label": their names in the training table
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the manifest of a file, None without one."""
        values = read_manifest(path)
        return None if values is None else cls(**_without_replaced(values))

    @classmethod
    def of(cls, values: Any, source: Path) -> Self:
        """Check values and return them as a manifest."""
        version = values.get("format_version") if isinstance(values, dict) else None
        if not isinstance(version, int):
            raise ArtifactError(
                f"{source} is not the manifest of a saved pipeline. Delete it to open the file "
                "unverified."
            )
        if version > FORMAT_VERSION:
            versions = values.get("versions")
            writer = versions.get("pipeline", "?") if isinstance(versions, dict) else "?"
            raise ArtifactError(
                f"{source} was written by version {writer} of pipeline in format {version}; this "
                f"version knows up to {FORMAT_VERSION}. Upgrade to open it."
            )
        values, replaces = _without_replaced(values), values.get(_REPLACES)
        names = set(cls.__dataclass_fields__)
        missing = sorted(names - set(values) - _OPTIONAL)
        unknown = sorted(set(values) - names)
        if missing or unknown:
            raise ArtifactError(
                f"{source} is damaged: missing {missing}, unknown {unknown}. Delete it, or save "
                "again."
            )
        wrong = [name for name in values if not isinstance(values[name], _KINDS.get(name, object))]
        versions = values["versions"]
        if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
            wrong.append("versions")
        if not isinstance(replaces, dict | None) or (replaces and replaces.get(_REPLACES)):
            wrong.append(_REPLACES)
        if wrong:
            raise ArtifactError(
                f"{source} is damaged: {', '.join(wrong)} is nothing that save_pipeline writes "
                "there. Delete it, or save again."
            )
        if replaces is not None:
            cls.of(replaces, source)
        return cls(**values)


def _without_replaced(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != _REPLACES}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the checked values of a file's manifest, None without one."""
    source = manifest_path(path)
    try:
        values: Any = json.loads(source.read_bytes().decode("utf-8"))
        manifest_text(values).encode()  # what cannot be written and signed again is none
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{source} is damaged: {error}. Delete it to open the file unverified, or save again."
        ) from error
    Manifest.of(values, source)
    return dict(values)


def fitting(values: dict[str, Any], size: int, sha256: str | None) -> list[dict[str, Any]]:
    """Return the manifests of this file: this one, and the one it replaces."""
    return [
        one
        for one in (_without_replaced(values), values.get(_REPLACES))
        if one and one["size"] == size and sha256 in (None, one["sha256"])
    ]


def manifest_path(path: Path) -> Path:
    """Return ``sentiment.joblib.json`` for ``sentiment.joblib``."""
    return path.parent / f"{path.name}.json"


def manifest_place(place: Path | str) -> Path | str:
    """Return the manifest's path or address."""
    return manifest_path(place) if isinstance(place, Path) else f"{place}.json"


def put_in_place(written: Path, place: Path | str, manifest: Manifest, key: Any = None) -> None:
    """Move a written file and its manifest into place together."""
    # first a manifest that knows both files, then the file, then its own manifest
    values = asdict(manifest)
    with _turn(place):
        before = _before(place)
        with signed(manifest_place(place), values, key):
            if before is not None:
                _write(place, {**values, _REPLACES: before})
                put(written, place)
            _write(place, values)
            if before is None:
                put(written, place)
        if isinstance(place, Path):
            flush_to_disk(place.parent)


def put_scores(place: Path | str, scores: dict[str, Any], key: Any = None) -> None:
    """Write scores into a file's manifest, and sign it."""
    with _turn(place):
        values = _read_alone(place)
        if values is None:
            return
        if key is None and is_signed(manifest_place(place)):
            raise ArtifactError(
                f"{place} is signed, and its signature would not fit other scores: give sign=key."
            )
        values["scores"] = scores
        with signed(manifest_place(place), values, key):
            _write(place, values)


def columns_of(place: Path | str) -> dict[str, str]:
    """Return the training columns of a saved file."""
    try:
        values = _read_alone(place)
    except (OSError, ArtifactError):  # opening the file will say so
        return {}
    return (values or {}).get("columns") or {}


def _read_alone(place: Path | str) -> dict[str, Any] | None:
    with fetched(manifest_place(place)) as path:
        return read_manifest(path.with_suffix(""))


def _before(place: Path | str) -> dict[str, Any] | None:
    """Return the manifest of the file to be replaced."""
    try:
        size = file_size(str(place))
    except FileNotFoundError:
        return None
    # in a store the size is enough: hashing would mean fetching
    sha256 = sha256_of(place) if isinstance(place, Path) else None
    with contextlib.suppress(ArtifactError):
        if (values := _read_alone(place)) and (matching := fitting(values, size, sha256)):
            return matching[0]
    with fetched(place) as path:
        size, sha256 = path.stat().st_size, sha256_of(path)
    return asdict(Manifest(Path(place).name, "joblib", size, sha256, "", {}, [], None, [], None))


def _write(place: Path | str, values: dict[str, Any]) -> None:
    write_text(manifest_place(place), manifest_text(values), named=place)


@contextlib.contextmanager
def _turn(place: Path | str) -> Iterator[None]:
    """Wait until no other process writes a file into a folder."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover  (on Windows only)
        yield
        return
    if isinstance(place, str):
        yield
        return
    # Locks the folder itself, because filelock would leave a file beside the saved one.
    handle = os.open(place.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
