"""What kind of file is it really, by its first bytes. Used by opening and artifact."""

from pathlib import Path
from typing import Literal

from pipeline.saved.skops_file import skops_schema


class ArtifactError(ValueError):
    """A saved pipeline could not be opened, and why: another kind of file, damaged, not allowed, too new, or not what it was."""


def file_kind(path: Path) -> Literal["joblib", "skops"]:
    """Return the format of a saved pipeline.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ArtifactError
        Where it is another kind of file; the message says which.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}; train writes one.")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\x80"):  # every pickle of protocol 2 or later starts so
        return "joblib"
    if head.startswith(b"PK") and skops_schema(path) is not None:
        return "skops"
    raise ArtifactError(f"{path} is no saved pipeline: {_what_it_is(head)}.")


def _what_it_is(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; the download went wrong"
    if head.startswith(b"PK"):
        return "it is a zip archive, whole or cut short, and no .skops file"
    if head.startswith((b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22M\x18")):
        return "it is compressed, and a compressed file cannot be memory-mapped; load it with joblib.load and save it again"
    return "it is not a joblib file"
