"""Open a saved file: check kind, manifest and names, then load the object."""

import contextlib
from pathlib import Path
from typing import Any, Literal

from pipeline.exceptions import ArtifactError, CheckpointError
from pipeline.files import fetched, file_moment, naming, sha256_of
from pipeline.saved.allow_list import not_allowed, refuse_names
from pipeline.saved.joblib_file import read_contents, unpickle_allowed
from pipeline.saved.manifest import Manifest, manifest_path, manifest_place
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
    place: Path | str, *, hashed: bool, sha256: str | None, trusted: frozenset[str]
) -> tuple[Any, Manifest | None]:
    """Open a saved file with its matching manifest."""
    for _ in range(_ATTEMPTS):
        before = _moment(place)
        try:
            with fetched(place, manifest_place(place)) as path:
                kind = file_kind(path)
                manifest = _matching_manifest(path, hashed, sha256)
                opened = _read(path, kind, trusted, mapped=path is place)
        except (ArtifactError, FileNotFoundError):
            if _moment(place) == before:
                raise
            continue
        if _moment(place) == before:  # otherwise two files may have been read and mapped
            return opened, manifest
    raise ArtifactError(
        f"{place} was replaced {_ATTEMPTS} times while it was opened: another process keeps saving "
        "to it."
    )


def _moment(place: Path | str) -> list[Any]:
    """Return values that change when the file or its manifest is replaced."""
    moment: list[Any] = []
    for file in (place, manifest_place(place)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            inode = file.stat().st_ino if isinstance(file, Path) else None
            moment.append([file, inode, *file_moment(str(file))])
    return moment


def _matching_manifest(path: Path, hashed: bool, sha256: str | None) -> Manifest | None:
    manifest = Manifest.read(path)
    size = path.stat().st_size
    actual = sha256_of(path) if hashed or sha256 is not None else None
    if sha256 is not None and actual != sha256.lower():
        raise ArtifactError(
            f"{path} is not the requested file: it has sha256 {actual}, not {sha256}."
        )
    if manifest is None:
        return None
    matching = manifest.matching(size, actual)
    if matching is None:
        difference = (
            f"{size} bytes, not {manifest.size}"
            if size != manifest.size
            else f"sha256 {actual}, not {manifest.sha256}"
        )
        raise ArtifactError(
            f"{path} is not the file that was saved: it has {difference}, as "
            f"{manifest_path(path).name} says. It is damaged, truncated or was changed. Copy it "
            "again or train a new one. If another program wrote it on purpose, delete the manifest."
        )
    return matching if matching.versions else None


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
