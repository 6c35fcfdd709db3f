"""The contents of a saved file as nested dicts and lists, for people to read. Used by artifact."""

import json
from typing import Any

from pipeline.saved.joblib_contents import Array, Made, Name

_LONGEST_TEXT, _MOST_ITEMS, _DEEPEST = 200, 50, 12


def outline_of(value: Any, depth: int = 0) -> Any:
    """Turn what `read_contents` found into plain values; what is long or deep is cut, and says so.

    Parameters
    ----------
    value : Any
        `Contents.root`, or a part of it.
    depth : int
        How deep it stands.

    Returns
    -------
    dict, list, str or number
        An object is a dict with its class under ``"class"``.
    """
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Name):
        return f"<{value.name}>"
    if isinstance(value, Array):
        shape = f"<array {value.dtype} {value.shape}>"
        return shape if value.value is None else {shape: _listed(value.value)}
    if isinstance(value, Made):
        return _outline_of_made(value, depth)
    if isinstance(value, dict):
        shown = {_key(key): outline_of(one, depth + 1) for key, one in list(value.items())[:_MOST_ITEMS]}
        return shown | ({"...": f"{len(value) - _MOST_ITEMS} more"} if len(value) > _MOST_ITEMS else {})
    if isinstance(value, (list, tuple, set, frozenset)):
        shown_items = [outline_of(one, depth + 1) for one in list(value)[:_MOST_ITEMS]]
        return shown_items + ([f"... {len(value) - _MOST_ITEMS} more"] if len(value) > _MOST_ITEMS else [])
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _cut(value if isinstance(value, str) else repr(value))


def _outline_of_made(made: Made, depth: int) -> Any:
    shown: dict[str, Any] = {"class": made.name}
    if made.args not in ((), []):
        shown["called with"] = outline_of(made.args, depth + 1)
    if made.state is not None:
        state = outline_of(made.state, depth + 1)  # too deep inside, a dict is "..." too
        shown |= state if isinstance(state, dict) and isinstance(made.state, dict) else {"state": state}
    if made.items:
        shown["items"] = outline_of(made.items, depth + 1)
    return shown


def _listed(value: Any) -> Any:
    """Return the items of an object array: the last part of the state that numpy gives it."""
    state = value.state if isinstance(value, Made) else None
    if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list):
        return [outline_of(one, _DEEPEST - 3) for one in state[4][:_MOST_ITEMS]]
    return outline_of(value, _DEEPEST - 3)


def outline_of_skops(schema: Any, depth: int = 0) -> Any:
    """Turn the description in a .skops file into the same kind of outline."""
    if depth > _DEEPEST:
        return "..."
    content = schema.get("content") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or "__class__" not in schema:
        return outline_of(schema, depth)
    if schema.get("is_json") and isinstance(content, str):
        return outline_of(json.loads(content), depth)
    name = f"{schema.get('__module__')}.{schema['__class__']}"
    if name in ("builtins.list", "builtins.tuple", "builtins.set") and isinstance(content, list):
        return [outline_of_skops(one, depth + 1) for one in content[:_MOST_ITEMS]]
    if name == "builtins.dict" and isinstance(content, dict):
        return {_key(key): outline_of_skops(one, depth + 1) for key, one in list(content.items())[:_MOST_ITEMS]}
    if content is None or isinstance(content, (str, bool, int, float)):
        return outline_of(content, depth) if name.startswith("builtins.") else f"<{name}>"
    inner = outline_of_skops(content, depth + 1)
    return {"class": name, **inner} if isinstance(inner, dict) and "class" not in inner else {"class": name, "content": inner}


def _key(key: Any) -> str:
    return _cut(key if isinstance(key, str) else repr(key))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}... ({len(text)} characters)"
