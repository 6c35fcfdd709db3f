"""What shows that files are the published ones: their hashes, and the SHA256SUMS and source.json of a carried folder."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.exceptions import DamagedFile
from pipeline.forks import ForkSafeLock

SUMS, RECORD = "SHA256SUMS", "source.json"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")  # what sha256sum writes, and reads with -c


_hashes: dict[tuple[str, int, int, int, int], str] = {}
_hashes_lock = ForkSafeLock()


def sha256_of_file(path: Path) -> str:
    """Hash a file once per process; a changed size or modification time hashes it again."""
    key = _state(path)
    with _hashes_lock:
        if key not in _hashes:
            with path.open("rb") as file:
                _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return _hashes[key]


def move(source: Path, target: Path) -> None:
    """Put a file in the place of another in one step; what is known of its hash goes with it."""
    known = _hashes.get(_state(source))
    os.replace(source, target)
    if known is not None:
        _hashes[_state(target)] = known  # a rename changes the ctime: it would be hashed again


def _state(path: Path) -> tuple[str, int, int, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def hash_like(path: Path, published: str) -> str:
    """Hash a file the way a published hash was made: 64 digits are its sha256, 40 are git's hash of the blob."""
    if len(published) == 64:
        return sha256_of_file(path)
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def difference(path: Path, published: str) -> str | None:
    """Say how a file differs from its published hash.

    Parameters
    ----------
    path : Path
        A file.
    published : str
        Sixty-four (sha256) or forty (git) hexadecimal digits.

    Returns
    -------
    str or None
        The name of the file and both hashes, or None where they are equal.
    """
    if not path.is_file():
        return f"{path.name} is missing, where a file of hash {published} is expected"
    found, kind = hash_like(path, published), "sha256" if len(published) == 64 else "git hash"
    return (
        None
        if found == published
        else f"{path.name} has {kind} {found}, the published one is {published}"
    )


def read_sums(folder: Path) -> dict[str, str]:
    """Read the ``SHA256SUMS`` of a folder.

    Parameters
    ----------
    folder : Path
        Any folder.

    Returns
    -------
    dict of str to str
        File name -> sha256; empty where the folder has no such file.

    Raises
    ------
    DamagedFile
        Where a line is not of the form that ``sha256sum`` writes.
    """
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = {}
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else PurePosixPath("..")
        if match is None or name.is_absolute() or ".." in name.parts:
            raise DamagedFile(
                f"line {number} of {path} is {line[:100]!r}; 'sha256  name of a file in this folder' is expected. Fetch the "
                f"folder again, or delete {SUMS} if it is none of this model's."
            )
        sums[str(name)] = match[1].lower()
    return sums


def check_sums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Check files of a folder against its ``SHA256SUMS``.

    Parameters
    ----------
    folder : Path
        Any folder; without a ``SHA256SUMS`` there is nothing to check.
    names : iterable of str, optional
        The files to check where they are listed; by default all that are.

    Returns
    -------
    dict of str to str
        The checked files and their sha256.

    Raises
    ------
    DamagedFile
        Naming the first file that is missing or differs, and both hashes.
    """
    sums = read_sums(folder)
    checked = {name: sums[name] for name in (sums if names is None else names) if name in sums}
    for name, published in checked.items():
        if told := difference(folder / name, published):
            raise DamagedFile(f"{told} ({SUMS} in {folder}). Copy or fetch the folder again.")
    return checked


def verify_folder(folder: Path) -> dict[str, str]:
    """Check every file that the ``SHA256SUMS`` of a folder lists, as ``sha256sum -c`` does.

    Parameters
    ----------
    folder : Path
        A folder written by ``run_pipeline.py fetch``, or any other with a ``SHA256SUMS``.

    Returns
    -------
    dict of str to str
        The files and their sha256; all of them are as listed.

    Raises
    ------
    DamagedFile
        Naming the first file that is missing or differs, and both hashes; also where there is nothing to check against.
    """
    if checked := check_sums(folder):
        return checked
    raise DamagedFile(
        f"{folder} has no {SUMS}, or an empty one: nothing to check against. `run_pipeline.py fetch MODEL --to DIR` writes one "
        f"with the model."
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read where the files of a carried folder come from.

    Returns
    -------
    dict or None
        ``model`` (hub id) and ``revision`` (the hub's commit, or None), or None where the folder says nothing of the kind.
    """
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("model"), str):
        return None
    revision = record.get("revision")
    return {"model": record["model"], "revision": revision if is_commit(revision) else None}


def is_commit(revision: Any) -> bool:
    """Whether a revision is a full commit, which stands for the same files for ever."""
    return isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def is_hash(name: Any) -> bool:
    """Whether this is a published hash: of git, or a sha256."""
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) is not None
