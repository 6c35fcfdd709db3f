"""The origin of a report's numbers."""

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from sklearn.pipeline import Pipeline

from pipeline.exceptions import ArtifactError
from pipeline.files import fetched, sha256_of, where
from pipeline.saved.manifest import Manifest, installed_versions, manifest_place, vectorizers_in

_SETTINGS = ("layers", "pooling", "combine", "truncation")


def trace_lineage(
    model: Any,
    *,
    artifact: str | os.PathLike | None = None,
    tables: Mapping[str, tuple[Path | str, pd.DataFrame]] | None = None,
    random_state: int | None = 0,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the origin of a report's numbers.

    Without names of users, machines and folders.

    Parameters
    ----------
    model : estimator
        Fitted.
    artifact : str or Path, optional
        The file it was saved to or loaded from.
    tables : mapping of str to (Path or str, DataFrame), optional
        The scored and training tables by a name such as ``"data"``: file, or a description, and
        rows.
    random_state : int, optional
        As given to `pipeline.evaluate`.
    command : sequence of str, optional
        ``sys.argv`` of the program.

    Returns
    -------
    dict
        ``created`` (UTC), ``command``, ``models`` (``id``, ``kind`` of its source, ``revision``
        (the commit on the hub), ``sha256`` of its files, and its settings), ``classifier``
        (``kind`` of the last step, and its ``C``, chosen or given), ``artifact`` (``file``,
        ``sha256``, ``size_bytes``, ``created``), the ``tables`` (``file`` and its ``sha256``, or
        ``source``; ``rows`` and ``sha256_of_rows``, a hash of the cells), ``seed``, ``versions``
        and ``platform``.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": None if command is None else shlex.join(map(_without_folders, command)),
        "models": [_model(vectorizer) for vectorizer in vectorizers_in(model)],
        "classifier": _classifier(model),
        "artifact": None if artifact is None else _artifact(where(artifact)),
        **{name: _table(origin, table) for name, (origin, table) in (tables or {}).items()},
        "seed": random_state,
        "versions": installed_versions(),
        "platform": f"{platform.system()} {platform.machine()}, Python {sys.implementation.name}",
    }


def _without_folders(text: str) -> str:
    option, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    path = PurePath(value)
    outside = path.is_absolute() or value.startswith(("..", "~"))
    return f"{option}{equals}{path.name}" if outside else text


def _model(vectorizer: Any) -> dict[str, Any]:
    source = vectorizer.source_
    return {
        "id": _without_folders(str(source["model"])),
        "kind": source["kind"],
        "revision": source["revision"],
        "sha256": dict(source["sha256"]),
        **{name: getattr(vectorizer, name) for name in _SETTINGS if hasattr(vectorizer, name)},
        "max_length": getattr(vectorizer, "max_length_", None),
    }


def _classifier(model: Any) -> dict[str, Any]:
    last = model[-1] if isinstance(model, Pipeline) else model
    C = getattr(last, "C_", getattr(last, "C", None))
    return {"kind": type(last).__name__} | ({} if C is None else {"C": C})


def _artifact(place: Path | str) -> dict[str, Any]:
    with fetched(place, manifest_place(place)) as path:
        try:
            manifest = Manifest.read(path)
        except ArtifactError:
            manifest = None
        return {
            "file": path.name,
            "sha256": sha256_of(path),
            "size_bytes": path.stat().st_size,
            "created": None if manifest is None else manifest.created,
        }


def _table(origin: Path | str, table: pd.DataFrame) -> dict[str, Any]:
    # cells as text: equal rows of CSV and Parquet have equal hashes
    digest = hashlib.sha256()
    for row in table.itertuples(index=False):
        digest.update("\x1f".join(map(str, row)).encode("utf-8", errors="surrogatepass") + b"\x1e")
    source = (
        {"file": origin.name, "sha256": sha256_of(origin)}
        if isinstance(origin, Path)
        else {"source": origin}
    )
    return {**source, "rows": len(table), "sha256_of_rows": digest.hexdigest()}
