"""The manifest beside a saved file: hashes, versions, contents, probe texts."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from pipeline import __version__
from pipeline.exceptions import CheckpointError, ManifestError
from pipeline.files import fetched, file_size, flush_to_disk, put, sha256_of, write_text

# What decides a pipeline's numbers, or how its file is written.
PACKAGES = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy", "joblib")


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = {"pipeline": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return tuple(found.items())


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those it computes with."""
    return dict(_installed())


def refuse_newer_state(name: str, made_with: Mapping[str, Any], known: int) -> None:
    """Refuse a saved state that this version of the class does not know.

    Parameters
    ----------
    name : str
        Of the class.
    made_with : mapping
        `installed_versions` of then, and ``state_version``.
    known : int
        The newest state that it knows.

    Raises
    ------
    CheckpointError
        With both versions of this package.
    """
    if made_with["state_version"] > known:
        raise CheckpointError(
            f"This {name} was saved by version {made_with['pipeline']} of pipeline, in state {made_with['state_version']}; this "
            f"is version {installed_versions()['pipeline']}, which knows states up to {known}. Upgrade to open it."
        )


def differing_versions(made_with: Mapping[str, str]) -> list[str]:
    """Say which versions differ from those a file was made with.

    Parameters
    ----------
    made_with : mapping of str to str
        From `installed_versions`, then.

    Returns
    -------
    list of str
        Such as ``"torch 2.12.1, here 2.13.0"``. scikit-learn's is compared in full, as it does itself; of the others the first
        two numbers.
    """
    here = installed_versions()

    def compared(package: str, version: str) -> str:
        return (
            version
            if package == "scikit-learn"
            else ".".join(version.partition("+")[0].split(".")[:2])
        )

    return [
        f"{package} {version}, here {here[package]}"
        for package, version in made_with.items()
        if package in PACKAGES
        and package != "joblib"
        and compared(package, version) != compared(package, here[package])
    ]


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


_WITH_MODEL = ("pipeline.vectorizer.BertVectorizer", "pipeline.finetuning.FineTunedBertClassifier")
_FITTED = (("source", "source_"), ("layers", "layers_"), ("max_length", "max_length_"))
_PARAMETERS = ("pooling", "combine", "truncation", "normalize", "weights_in_artifact")


def vectorizers_in(pipeline: Any) -> list[Any]:
    """Return every fitted BertVectorizer and FineTunedBertClassifier inside a pipeline: what carries a model."""
    return [
        one
        for one in estimators_in(pipeline)
        if class_name(one) in _WITH_MODEL and hasattr(one, "source_")
    ]


def class_name(value: Any) -> str:
    """Return the full name of an object's class; a string, such as the step "passthrough", is its own name."""
    return (
        value if isinstance(value, str) else f"{type(value).__module__}.{type(value).__qualname__}"
    )


def describe(pipeline: Any) -> dict[str, Any]:
    """Return ``steps``, ``classes``, ``vectorizers`` and ``n_training_texts`` of a fitted pipeline, for its manifest."""
    vectorizers = vectorizers_in(pipeline)
    return {
        "steps": [[name, class_name(step)] for name, step in pipeline.steps],
        "classes": plain(list(pipeline.classes_), "classes_")
        if hasattr(pipeline, "classes_")
        else None,
        "vectorizers": [_describe_vectorizer(vectorizer) for vectorizer in vectorizers],
        "n_training_texts": max(
            (v.truncation_report_["n_texts"] for v in vectorizers), default=None
        ),
    }


def _describe_vectorizer(vectorizer: Any) -> dict[str, Any]:
    fitted = {
        name: getattr(vectorizer, attribute)
        for name, attribute in _FITTED
        if hasattr(vectorizer, attribute)
    }
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
    raise TypeError(
        f"{where} is a {type(value).__name__}; a manifest holds numbers, strings, lists and dicts of them."
    )


FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What is known of a saved file without opening it; the fields of ``<file>.json``, see docs/artifact-format.md.

    Attributes
    ----------
    file : str
        Its name, without folders.
    format : {"joblib", "skops"}
    size : int
        Bytes.
    sha256 : str
        Of the whole file.
    created : str
        UTC, ISO 8601.
    versions : dict of str to str
        Of Python, of this package and those it computes with.
    steps : list of [str, str]
        Name and class of every step.
    classes : list or None
        The classifier's ``classes_``.
    vectorizers : list of dict
        Of every BertVectorizer inside: model, source with hashes, layers, pooling, combine, max_length, truncation,
        weights_in_artifact, and the device and dtype it was saved on.
    probes : dict or None
        ``method``, three ``inputs``, their ``outputs`` and the ``tolerance`` within which they must come again.
    n_training_texts : int or None
    scores : dict or None
        As given to `save_pipeline`.
    format_version : int
        Of this list of fields.
    replaces : dict or None
        While a file is being replaced: the manifest of the one before, so that at no moment the file is without its own.
    """

    file: str
    format: str
    size: int
    sha256: str
    created: str
    versions: dict[str, str]
    steps: list[list[str]]
    classes: list[Any] | None
    vectorizers: list[dict[str, Any]]
    probes: dict[str, Any] | None
    n_training_texts: int | None = None
    scores: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION
    replaces: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the manifest of a saved file; None where it has none.

        Raises
        ------
        ManifestError
            Where it is damaged or newer than this version.
        """
        where = manifest_path(path)
        try:
            values = json.loads(where.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ManifestError(
                f"{where} is damaged: {error}. Delete it, to open the file unverified, or save again."
            ) from error
        return cls.of(values, where)

    @classmethod
    def of(cls, values: Any, where: Path) -> Self:
        """Check the values of a manifest."""
        version = values.get("format_version") if isinstance(values, dict) else None
        if not isinstance(version, int):
            raise ManifestError(
                f"{where} is no manifest of a saved pipeline. Delete it, to open the file unverified."
            )
        if version > FORMAT_VERSION:
            made = (
                values.get("versions", {}).get("pipeline", "a newer one")
                if isinstance(values.get("versions"), dict)
                else "?"
            )
            raise ManifestError(
                f"{where} was written by version {made} of pipeline in format {version}; this one knows up to {FORMAT_VERSION}. "
                "Upgrade to open it."
            )
        missing = sorted(set(cls.__dataclass_fields__) - set(values) - _OPTIONAL)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if missing or unknown:
            raise ManifestError(
                f"{where} is damaged: missing {missing}, unknown {unknown}. Delete it, or save again."
            )
        return cls(**values)

    def matching(self, size: int, sha256: str | None) -> Self | None:
        """Return this manifest, or the one it replaces: whichever the file is of; None where neither is.

        Parameters
        ----------
        size : int
            Of the file.
        sha256 : str or None
            Of the file; None compares sizes only.
        """
        if self.size == size and sha256 in (None, self.sha256):
            return self
        if self.replaces is None:
            return None
        before = type(self).of(self.replaces, Path(self.file))
        return before.matching(size, sha256)

    def to_json(self) -> str:
        """Return the text of the manifest."""
        values = asdict(self)
        if self.replaces is None:
            del values["replaces"]
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


_OPTIONAL = {"n_training_texts", "scores", "replaces"}


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a file is: ``sentiment.joblib.json`` beside ``sentiment.joblib``."""
    return path.parent / f"{path.name}.json"


def manifest_place(place: Path | str) -> Path | str:
    """Return where the manifest of a file is that may be at an address."""
    return manifest_path(place) if isinstance(place, Path) else f"{place}.json"


def put_in_place(written: Path, place: Path | str, manifest: Manifest) -> None:
    """Give a written file its name, together with its manifest, so that whoever reads at any moment finds a pair that fits.

    First comes a manifest that knows both the new file and the one before; then the file; then the manifest without the one
    before. Savers take turns by a lock on the folder, where the system has such locks; a store has none.

    Parameters
    ----------
    written : Path
        From `pipeline.files.temporary_for`.
    place : Path or str
        Its path, or its address.
    manifest : Manifest
        Of the written file.
    """
    with _turn(place):
        before = _before(place)
        if before is not None:
            _write_manifest(place, manifest, before)
            put(written, place)
        _write_manifest(place, manifest, None)
        if before is None:
            put(written, place)
        if isinstance(place, Path):
            flush_to_disk(place.parent)


def put_scores(place: Path | str, scores: dict[str, Any]) -> None:
    """Write scores into the manifest of a saved file; all else in it stays."""
    with _turn(place):
        with fetched(manifest_place(place)) as path:
            manifest = Manifest.read(path.with_suffix(""))
        if manifest is not None:
            _write_manifest(place, replace(manifest, scores=scores), manifest.replaces)


def _before(place: Path | str) -> dict[str, Any] | None:
    """Return the values of the manifest of the file that is there; without one, what can be said of it by its bytes."""
    try:
        size = file_size(str(place))
    except FileNotFoundError:
        return None
    # of a file in a store the size will do, where it has a manifest: to hash it would be to fetch it
    sha256 = sha256_of(place) if isinstance(place, Path) else None
    with contextlib.suppress(ManifestError), fetched(manifest_place(place)) as path:
        found = Manifest.read(path.with_suffix(""))
        found = found and found.matching(size, sha256)
        if found is not None:
            return {name: value for name, value in asdict(found).items() if name != "replaces"}
    with fetched(place) as path:
        unknown = Manifest(
            path.name, "joblib", path.stat().st_size, sha256_of(path), "", {}, [], None, [], None
        )
    return {name: value for name, value in asdict(unknown).items() if name != "replaces"}


def _write_manifest(
    place: Path | str, manifest: Manifest, replaces: Mapping[str, Any] | None
) -> None:
    text = Manifest(**{**asdict(manifest), "replaces": replaces}).to_json()
    write_text(manifest_place(place), text, named=place)


@contextlib.contextmanager
def _turn(place: Path | str) -> Iterator[None]:
    """Wait until no other process is putting a file into a folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    if isinstance(place, str):
        yield
        return
    handle = os.open(place.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
