"""Published hashes, and SHA256SUMS and source.json of a copied folder."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.exceptions import DamagedFile
from pipeline.files import program, sha256_of
from pipeline.forks import ForkSafeLock

SUMS, RECORD = "SHA256SUMS", "source.json"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")  # the format of sha256sum

_hashes: dict[tuple[int, ...], str] = {}
_hashes_lock = ForkSafeLock()


def sha256_of_file(path: Path) -> str:
    """Hash a file, once per process unless it changes."""
    stat = path.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    with _hashes_lock:
        if state not in _hashes:
            _hashes[state] = sha256_of(path)
        return _hashes[state]


def difference(path: Path, published: str) -> str | None:
    """Describe how a file differs from its published hash, or return None."""
    if not path.is_file():
        return f"{path.name} is missing (expected hash {published})"
    if len(published) == 64:
        kind, found = "sha256", sha256_of_file(path)
    else:  # small files are published by git's hash of the blob
        blob = path.read_bytes()
        kind = "git hash"
        found = hashlib.sha1(b"blob %d\0" % len(blob) + blob, usedforsecurity=False).hexdigest()
    if found == published:
        return None
    return f"{path.name} has {kind} {found}, expected {published}"


def read_sums(folder: Path) -> dict[str, str]:
    """Read a folder's ``SHA256SUMS`` as file name -> sha256, empty if missing."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else PurePosixPath("..")
        if match is None or name.is_absolute() or ".." in name.parts:
            raise DamagedFile(
                f"line {number} of {path} is {line[:100]!r}, not 'sha256  name of a file in this "
                f"folder'. Fetch the folder again, or delete {SUMS} if it does not belong to "
                "this model."
            )
        sums[str(name)] = match[1].lower()
    return sums


def check_sums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Check all listed files, or those of `names`, and return their sha256."""
    sums = read_sums(folder)
    checked = {name: sums[name] for name in (sums if names is None else names) if name in sums}
    for name, published in checked.items():
        if damage := difference(folder / name, published):
            raise DamagedFile(f"{damage} ({SUMS} in {folder}). Copy or fetch the folder again.")
    return checked


def verify_folder(folder: Path) -> dict[str, str]:
    """Check every file in ``SHA256SUMS``, like ``sha256sum -c``, and return the hashes."""
    if checked := check_sums(folder):
        return checked
    raise DamagedFile(
        f"{folder} has no {SUMS}, or an empty one, to check against. "
        f"`{program()} fetch MODEL --to DIR` writes one with the model."
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the ``model`` and ``revision`` of a copied folder, None if unknown."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("model"), str):
        return None
    revision = record.get("revision")
    return {"model": record["model"], "revision": revision if is_commit(revision) else None}


def is_commit(revision: Any) -> bool:
    """Whether a revision is a full commit hash, which never changes."""
    return isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def is_hash(name: Any) -> bool:
    """Whether this is a git hash or a sha256."""
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) is not None
