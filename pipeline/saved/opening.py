"""Open a saved file: check kind, manifest and names, then load the object."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

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
    source = manifest_path(path)
    values = read_manifest(path)
    manifest = None if values is None else Manifest.of(values, source)
    size = path.stat().st_size
    actual = sha256_of(path) if hashed or sha256 is not None else None
    if sha256 is not None and actual != sha256.lower():
        raise ArtifactError(
            f"{path} is not the requested file: it has sha256 {actual}, not {sha256}."
        )
    if manifest is None:
        if keys is not None:
            raise unsigned(path, f"it has no manifest, {source.name}, that could be signed")
        return None
    matching = fitting(values, size, actual)
    if not matching:
        difference = (
            f"{size} bytes, not {manifest.size}"
            if size != manifest.size
            else f"sha256 {actual}, not {manifest.sha256}"
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
