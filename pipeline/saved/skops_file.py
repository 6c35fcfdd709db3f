"""Pipelines as .skops files: a zip of JSON and arrays that executes nothing."""

import io
import json
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np

from pipeline.exceptions import ArtifactError
from pipeline.saved.allow_list import (
    CALLED,
    DISTRIBUTIONS,
    FROZEN,
    FUNCTIONS,
    NAMED,
    is_allowed,
    name_of,
    refuse_names,
    refused_file,
    restore_distribution,
)
from pipeline.saved.joblib_file import DEEPEST, Made, Name
from pipeline.saved.manifest import parts_of

_SCHEMA = "schema.json"
# what skops calls with, or fills with, what a file holds
_MAKES = {
    "ListNode": {"builtins.list"},
    "SetNode": {"builtins.set"},
    "TupleNode": {"builtins.tuple", "sklearn.impute._iterative._ImputerTriplet"},
    "DictNode": {"builtins.dict", "collections.OrderedDict", "sklearn.utils._bunch.Bunch"},
    "DefaultDictNode": {"collections.defaultdict"},
    "ConstructorFromReduceNode": {name for name in CALLED if "collections." not in name},
    "LossNode": CALLED,
    "TreeNode": CALLED,
}
_MOST_UNPACKED, _BYTES_AT_LEAST = 30, 1 << 26  # times the size of the file
# by damaged, encrypted or hostile archives
_DAMAGED = (KeyError, ValueError, zipfile.BadZipFile, OSError, EOFError, zlib.error, RuntimeError)


def write_skops(pipeline: Any, path: Path) -> None:
    """Write a fitted pipeline as a .skops file."""
    if any(isinstance(part, np.memmap) or _is_frozen(part) for part in parts_of(pipeline)):
        # skops cannot read the memmaps that it writes; a joblib file in memory has plain arrays
        file = io.BytesIO()
        joblib.dump(pipeline, file)
        file.seek(0)
        pipeline = joblib.load(file)
    for part in filter(_is_frozen, parts_of(pipeline)):  # reading gives them no state either
        part.dist = object.__new__(type(part.dist))
    with path.open("wb") as target:
        _skops().dump(pipeline, target)


def read_skops(path: Path, trusted: Collection[str] = ()) -> Any:
    """Read a .skops file whose names are all allowed or trusted."""
    skops, file = _skops(), _without_states(path)
    unknown = skops.get_untrusted_types(file=file)
    refuse_names(path, _refused(unknown, trusted))
    for problem in skops_problems(skops_schema(path)):
        raise refused_file(path, problem)
    loaded = skops.load(file, trusted=unknown)
    for part in filter(_is_frozen, parts_of(loaded)):
        restore_distribution(part.dist)
    return loaded


def skops_refused(path: Path) -> list[str] | None:
    """Return the names that `read_skops` would refuse, None without skops."""
    try:
        return _refused(_skops().get_untrusted_types(file=_without_states(path)))
    except ImportError:
        return None


def _refused(names: Collection[str], trusted: Collection[str] = ()) -> list[str]:
    """Return the names that are not allowed, which skops would call."""
    calls = FUNCTIONS.difference(trusted)
    return [name for name in names if name in calls or not is_allowed(name, trusted)]


def look_into_skops(path: Path) -> tuple[list[str], list[str] | None, Any, list[str]]:
    """Return a file's names, refused names, root and problems."""
    schema = skops_schema(path)
    try:
        return skops_names(schema), skops_refused(path), skops_root(schema), skops_problems(schema)
    except Exception as error:  # a hostile description fails in any way at all
        raise ArtifactError(
            f"{path} cannot be read: it is damaged ({type(error).__name__}: {error}). Copy it "
            "again or train a new one."
        ) from error


def skops_problems(schema: Any) -> list[str]:
    """Return calls and array attributes that no saved pipeline has."""
    nodes = [part for part in _parts(schema) if isinstance(part.get("__loader__"), str)]
    by_id: dict[Any, dict[str, Any]] = {}
    problems: dict[str, None] = {}
    for node in nodes:
        if node.get("__id__") is None or node["__loader__"] == "CachedNode":
            continue
        known = by_id.setdefault(repr(node["__id__"]), node)
        if (known["__loader__"], _name(known)) != (node["__loader__"], _name(node)):
            problems["it gives one number to two objects"] = None
    for node in nodes:
        problems |= dict.fromkeys(_problems(node, by_id))
    return list(problems)


def _problems(node: dict[str, Any], by_id: dict[Any, dict[str, Any]]) -> Iterator[str]:
    loader, name, content = node["__loader__"], _name(node), node.get("content")
    if loader in _MAKES and name not in _MAKES[loader] and is_allowed(name):
        yield f"it calls {name}, which no saved pipeline does"
    if loader == "JsonNode" and str(content).lstrip().startswith(("{", "[")):
        yield "it hides a dict or list in a text"
    if loader == "DictNode":
        if any(key.startswith("__array_") for key in content or ()):
            yield "it gives an object the attributes of an array"
        for kind in node["key_types"]["content"]:
            plain = _name(kind) in NAMED and _name(kind).startswith(("builtins.", "numpy."))
            if kind["__loader__"] != "TypeNode" or not plain:
                yield f"it makes the keys of a dict by {_name(kind)}"
    if loader in ("ObjectNode", "LossNode", "TreeNode") and isinstance(content, dict):
        state = by_id.get(repr(content.get("__id__")), content)["__loader__"]
        compiled = name in NAMED or not is_allowed(name)  # or trusted by the user
        if state not in ("DictNode", "JsonNode") and not (state == "TupleNode" and compiled):
            yield f"it gives {name} a state that is no dict"


def _name(node: dict[str, Any]) -> str:
    return f"{node.get('__module__')}.{node.get('__class__')}"


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict in a description, in the order of the file."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += reversed(part.values())
        elif isinstance(part, list):
            waiting += reversed(part)


def _is_frozen(part: Any) -> bool:
    return name_of(type(part)) in FROZEN


def _without_states(path: Path) -> Path | BinaryIO:
    """Return a file without states of distributions, which scipy would execute."""
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
    """Return a description with distributions as empty objects."""
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _name(value) in DISTRIBUTIONS:
        kept = {key: value.get(key) for key in ("__class__", "__module__", "__id__")}
        return {**kept, "__loader__": "ObjectNode"}
    return {key: _bare(item) for key, item in value.items()}


def skops_schema(path: Path) -> dict[str, Any] | None:
    """Return the description in a .skops file, None for another zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            if _SCHEMA in archive.namelist():
                _check_entries(path, archive.infolist())
            schema: Any = json.loads(archive.read(_SCHEMA))
    except RecursionError as error:
        raise refused_file(path, "it is nested too deeply") from error
    except ArtifactError:  # a ValueError too
        raise
    except _DAMAGED:
        return None
    return schema if isinstance(schema, dict) and "__class__" in schema else None


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise for an archive that unpacks to far more, or ambiguously."""
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise refused_file(path, "two of its entries have one name")
    for entry in entries:
        if Path(entry.filename).name != entry.filename or stat.S_ISLNK(entry.external_attr >> 16):
            raise refused_file(path, f"its entry {entry.filename!r} is no plain file")
    most = max(_MOST_UNPACKED * path.stat().st_size, _BYTES_AT_LEAST)
    if (unpacked := sum(entry.file_size for entry in entries)) > most:
        raise refused_file(path, f"it unpacks to {unpacked} bytes")


def skops_names(schema: Any) -> list[str]:
    """Return every class and function that a .skops file names, each once."""
    names = (
        _name(part)
        for part in _parts(schema)
        if isinstance(part.get("__class__"), str) and isinstance(part.get("__module__"), str)
    )
    return list(dict.fromkeys(names))


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
    name = _name(schema)
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
