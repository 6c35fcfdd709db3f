"""Pipelines as .skops files: a zip of JSON and arrays that executes nothing."""

import io
import json
import zipfile
import zlib
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np

from pipeline.exceptions import ArtifactError
from pipeline.saved.allow_list import (
    DISTRIBUTIONS,
    FROZEN,
    FUNCTIONS,
    is_allowed,
    name_of,
    refuse_names,
    restore_distribution,
)
from pipeline.saved.joblib_file import DEEPEST, Made, Name
from pipeline.saved.manifest import parts_of

_SCHEMA = "schema.json"
_MOST_PACKED = 100  # times the size of a file; JSON packs by 10 to 30, skops itself packs nothing
# what an archive that is damaged, encrypted or made to do harm can cause
_DAMAGED = (KeyError, ValueError, zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError)


def write_skops(pipeline: Any, path: Path) -> None:
    """Write a fitted pipeline as a .skops file."""
    if any(isinstance(part, np.memmap) or _is_frozen(part) for part in parts_of(pipeline)):
        # skops writes memmaps that it cannot read again; a joblib file in memory has plain arrays
        file = io.BytesIO()
        joblib.dump(pipeline, file)
        file.seek(0)
        pipeline = joblib.load(file)
    for part in filter(_is_frozen, parts_of(pipeline)):  # what is read is without a state, too
        part.dist = object.__new__(type(part.dist))
    with path.open("wb") as target:
        _skops().dump(pipeline, target)


def read_skops(path: Path, trusted: Collection[str] = ()) -> Any:
    """Read a .skops file whose names are all allowed or trusted."""
    skops, file = _skops(), _without_states(path)
    unknown = skops.get_untrusted_types(file=file)
    refuse_names(path, _refused(unknown, trusted))
    loaded = skops.load(file, trusted=unknown)
    for part in filter(_is_frozen, parts_of(loaded)):
        restore_distribution(part.dist)
    return loaded


def skops_refused(path: Path) -> list[str] | None:
    """Return the names that `read_skops` would refuse; None without skops."""
    try:
        return _refused(_skops().get_untrusted_types(file=_without_states(path)))
    except ImportError:
        return None
    except Exception as error:  # skops fails in any way at what it has not written
        raise ArtifactError(
            f"{path} is damaged ({type(error).__name__}: {error}). Copy or train it again."
        ) from error


def _refused(names: Collection[str], trusted: Collection[str] = ()) -> list[str]:
    """Return the names that are not allowed; skops calls all others with any arguments."""
    calls = FUNCTIONS.difference(trusted)
    return [name for name in names if name in calls or not is_allowed(name, trusted)]


def _is_frozen(part: Any) -> bool:
    return name_of(type(part)) in FROZEN


def _without_states(path: Path) -> Path | BinaryIO:
    """Return a file whose distributions have no states: scipy would execute what stands there."""
    schema = skops_schema(path)
    if DISTRIBUTIONS.isdisjoint(skops_names(schema)):
        return path
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as bare:
        for name in set(archive.namelist()) - {_SCHEMA}:
            bare.writestr(name, archive.read(name))
        bare.writestr(_SCHEMA, json.dumps(_bare(schema)))
    return copy


def _bare(value: Any) -> Any:
    """Return a description in which distributions are empty objects of their classes."""
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    if f"{value.get('__module__')}.{value.get('__class__')}" in DISTRIBUTIONS:
        kept = {key: value.get(key) for key in ("__class__", "__module__", "__id__")}
        return {**kept, "__loader__": "ObjectNode"}
    return {key: _bare(item) for key, item in value.items()}


def skops_schema(path: Path) -> dict[str, Any] | None:
    """Return the description in a .skops file; None for another zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > _MOST_PACKED * path.stat().st_size:
                return None  # of few bytes that fill the memory
            schema: Any = json.loads(archive.read(_SCHEMA))
    except _DAMAGED:
        return None
    return schema if isinstance(schema, dict) and "__class__" in schema else None


def skops_names(schema: Any) -> list[str]:
    """Return every class and function that a .skops file names, each once."""
    names: dict[str, None] = {}
    waiting = deque([schema])
    while waiting:
        value = waiting.popleft()
        if isinstance(value, dict):
            if isinstance(value.get("__class__"), str) and isinstance(value.get("__module__"), str):
                names[f"{value['__module__']}.{value['__class__']}"] = None
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return list(names)


def skops_root(schema: Any, depth: int = 0) -> Any:
    """Turn the description in a .skops file into the root of `Contents`."""
    if depth > DEEPEST or not isinstance(schema, dict) or "__class__" not in schema:
        return schema
    content = schema.get("content")
    if schema.get("is_json") and isinstance(content, str):
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return content
    name = f"{schema.get('__module__')}.{schema['__class__']}"
    if name in ("builtins.list", "builtins.tuple", "builtins.set") and isinstance(content, list):
        return [skops_root(item, depth + 1) for item in content]
    if name == "builtins.dict" and isinstance(content, dict):
        return {key: skops_root(value, depth + 1) for key, value in content.items()}
    if content is None or isinstance(content, (str, bool, int, float)):
        return content if name.startswith("builtins.") else Name(name)
    return Made(Name(name), (), skops_root(content, depth + 1))


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "Files of the format 'skops' need skops: pip install '.[skops]' in a checkout, or pip "
            "install skops."
        ) from error
    return skops.io
