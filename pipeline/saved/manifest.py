"""The manifest beside a saved file: hashes, versions, what is inside, probe texts. Written and read here; used by artifact."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

FORMAT_VERSION = 1


class ManifestError(ValueError):
    """A manifest cannot be read, or is of a version that is not known."""


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
            raise ManifestError(f"{where} is damaged: {error}. Delete it, to open the file unverified, or save again.") from error
        return cls.of(values, where)

    @classmethod
    def of(cls, values: Any, where: Path) -> Self:
        """Check the values of a manifest."""
        version = values.get("format_version") if isinstance(values, dict) else None
        if not isinstance(version, int):
            raise ManifestError(f"{where} is no manifest of a saved pipeline. Delete it, to open the file unverified.")
        if version > FORMAT_VERSION:
            made = values.get("versions", {}).get("pipeline", "a newer one") if isinstance(values.get("versions"), dict) else "?"
            raise ManifestError(
                f"{where} was written by version {made} of pipeline in format {version}; this one knows up to {FORMAT_VERSION}. "
                "Upgrade to open it."
            )
        missing = sorted(set(cls.__dataclass_fields__) - set(values) - _OPTIONAL)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if missing or unknown:
            raise ManifestError(f"{where} is damaged: missing {missing}, unknown {unknown}. Delete it, or save again.")
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


def sha256_of(path: Path) -> str:
    """Hash a file; always anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Give a new empty file in the folder of ``path``; it is gone afterwards, unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Return when what was written to a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(written: Path, path: Path, manifest: Manifest) -> None:
    """Rename a written file to its name, together with its manifest, so that whoever reads at any moment finds a pair that fits.

    First comes a manifest that knows both the new file and the one before; then the file; then the manifest without the one
    before. Savers take turns by a lock on the folder, where the system has such locks.

    Parameters
    ----------
    written : Path
        In the same folder.
    path : Path
        Its name.
    manifest : Manifest
        Of the written file.
    """
    flush_to_disk(written)
    with _turn(path.parent):
        before = _before(path)
        if before is not None:
            _write_manifest(path, manifest, before)
            os.replace(written, path)
        _write_manifest(path, manifest, None)
        if before is None:
            os.replace(written, path)
        flush_to_disk(path.parent)


def _before(path: Path) -> dict[str, Any] | None:
    """Return the values of the manifest of the file that is there; without one, what can be said of it by its bytes."""
    if not path.is_file():
        return None
    size, sha256 = path.stat().st_size, sha256_of(path)
    with contextlib.suppress(ManifestError):
        found = Manifest.read(path)
        found = found and found.matching(size, sha256)
        if found is not None:
            return {name: value for name, value in asdict(found).items() if name != "replaces"}
    unknown = Manifest(path.name, "joblib", size, sha256, "", {}, [], None, [], None)
    return {name: value for name, value in asdict(unknown).items() if name != "replaces"}


def _write_manifest(path: Path, manifest: Manifest, replaces: Mapping[str, Any] | None) -> None:
    text = Manifest(**{**asdict(manifest), "replaces": replaces}).to_json()
    with temporary_beside(manifest_path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
        flush_to_disk(temporary)
        os.replace(temporary, manifest_path(path))


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is putting a file into a folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
