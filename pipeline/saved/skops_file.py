"""Pipelines as .skops files: a zip of JSON and arrays that executes nothing. Used by artifact."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.exceptions import NotAllowedError
from pipeline.saved.joblib_file import not_allowed

_SCHEMA = "schema.json"


def write_skops(pipeline: Any, path: Path) -> None:
    """Write a pipeline as a .skops file.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; of arrays, numbers, strings and estimators.
    path : Path
        The file.

    Raises
    ------
    ImportError
        Where skops is not installed.
    """
    with path.open("wb") as file:
        _skops().dump(pipeline, file)


def read_skops(path: Path, trusted: Iterable[str] = ()) -> Any:
    """Read a .skops file that names nothing but what skops or `pipeline.saved.joblib_file` allows.

    Parameters
    ----------
    path : Path
        Written by `write_skops`, or by skops itself.
    trusted : iterable of str
        Names allowed on top.

    Returns
    -------
    Any
        The object.

    Raises
    ------
    NotAllowedError
        Where it names something else; nothing of it was imported.
    ImportError
        Where skops is not installed.
    """
    skops = _skops()
    unknown = skops.get_untrusted_types(file=path)
    refused = not_allowed(unknown, trusted)
    if refused:
        raise NotAllowedError(
            f"it names {', '.join(refused)}, which is not on the list of what a saved pipeline may name"
        )
    return skops.load(path, trusted=unknown)


def skops_refused(path: Path) -> list[str] | None:
    """Return the names in a .skops file that `read_skops` would refuse; None where skops is not installed, which knows most."""
    try:
        return not_allowed(_skops().get_untrusted_types(file=path))
    except ImportError:
        return None


def skops_schema(path: Path) -> dict[str, Any] | None:
    """Return the description in a .skops file, read as JSON; None where the zip is another kind of file."""
    try:
        with zipfile.ZipFile(path) as archive:
            schema: Any = json.loads(archive.read(_SCHEMA))
    except (KeyError, ValueError, zipfile.BadZipFile, OSError):
        return None
    return schema if isinstance(schema, dict) and "__class__" in schema else None


def skops_names(schema: Any) -> list[str]:
    """Return every class and function that a .skops file names, each once."""
    found: dict[str, None] = {}
    waiting = [schema]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, dict):
            if isinstance(one.get("__class__"), str) and isinstance(one.get("__module__"), str):
                found[f"{one['__module__']}.{one['__class__']}"] = None
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return list(found)


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "Files of the format 'skops' need skops: pip install 'bert-vectorizer[skops]'."
        ) from error
    return skops.io
