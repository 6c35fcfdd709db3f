"""What a report says, as plain values: the dict of evaluate beside baselines, layers and origin. Used by report."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

_NEEDED = ("n_texts", "classes", "accuracy", "intervals", "confusion_matrix", "by_class", "calibration", "slices", "mistakes")
_LAYER = re.compile(r"layer (\d+)\b.*")
# of a layer study what the page shows, and what of its attrs
_WORDS, _NUMBERS = ("kind", "features", "pooling"), ("score", "score_sd", "dimension", "C")
_LAYER_ATTRS = ("n_folds", "scoring", "n_texts", "majority", "nested")


def report_contents(
    scores: Mapping[str, Any],
    *,
    comparison: pd.DataFrame | None = None,
    layers: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Put together everything a report says, in what JSON has: this is the file beside the page.

    Parameters
    ----------
    scores, comparison, layers, provenance, title
        As for `pipeline.write_report`.

    Returns
    -------
    dict
        ``title``; ``scores``, as they came; ``comparison``, a list with a dict per model (``model`` and the columns), or None;
        ``layers``, a dict of ``rows`` and of what is known of the study (``scoring``, ``n_folds`` and so on), or None;
        ``provenance``.

    Raises
    ------
    TypeError, ValueError
        Where ``scores`` is not what `pipeline.evaluate` returns, or ``layers`` is no layer study.
    """
    if not isinstance(scores, Mapping):
        raise TypeError(f"scores is a {type(scores).__name__}; the dict that evaluate(model, X, y) returns is expected.")
    missing = [name for name in _NEEDED if name not in scores]
    if missing:
        raise ValueError(f"scores lacks {', '.join(missing)}; give the whole dict that evaluate(model, X, y) returns.")
    return {
        "title": title or "How good is this classifier?",
        "scores": plain_values(scores),
        "comparison": None if comparison is None else _comparison(comparison),
        "layers": None if layers is None else _layers(layers),
        "provenance": plain_values(provenance or {}),
    }


def plain_values(value: Any) -> Any:
    """Turn a value into what JSON has: numpy's numbers and arrays into lists and numbers, NaN and infinities into None.

    What JSON has not, such as the dates that are someone's classes, becomes its text.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_values(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return plain_values(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain_values(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _comparison(table: pd.DataFrame) -> list[dict[str, Any]]:
    if "accuracy" not in getattr(table, "columns", ()):
        raise ValueError("comparison has no column 'accuracy'; give the DataFrame that compare(X, y) returns.")
    return [{"model": str(name), **plain_values(row)} for name, row in zip(table.index, table.to_dict("records"), strict=True)]


def _layers(study: pd.DataFrame) -> dict[str, Any]:
    lacking = [name for name in (*_WORDS, "score") if name not in getattr(study, "columns", ())]
    if lacking:
        raise ValueError(
            f"layers has no column {lacking[0]!r}; give the DataFrame of layer_study, or the table that `layers` wrote."
        )
    shown = study[[name for name in (*_WORDS, *_NUMBERS) if name in study.columns]]
    numbers = {name: pd.to_numeric(shown[name]) for name in _NUMBERS if name in shown}  # of a CSV file they are text
    rows = plain_values(shown.assign(**numbers).to_dict("records"))
    for row in rows:
        numbered = _LAYER.fullmatch(str(row["features"]))
        row["layer"] = int(numbered[1]) if row["kind"] == "layer" and numbered else None
    return {"rows": rows, **{name: plain_values(study.attrs[name]) for name in _LAYER_ATTRS if name in study.attrs}}


def coloured_pieces(text: str, words: Sequence[Mapping[str, Any]], *, most: int = 1200) -> dict[str, Any]:
    """Cut a text into pieces, each with what it adds to the decision.

    Parameters
    ----------
    text : str
    words : sequence of mapping
        ``word``, ``start``, ``end``, ``contribution``, as `pipeline.evaluate` gives them.
    most : int, default=1200
        Characters shown at most, from a little before the first explained word on.

    Returns
    -------
    dict
        ``pieces``: ``text``, ``contribution`` (None between the words) and ``strength``, the share of the strongest one;
        ``before`` and ``after``, how many characters are left out; ``strongest``, the words that add most in either direction,
        with those that stand for no characters ([CLS], [SEP]).
    """
    inside = sorted((word for word in words if word["start"] < word["end"]), key=lambda word: word["start"])
    first = inside[0]["start"] if inside else 0
    start = first - 60 if first > 60 else 0
    end = min(len(text), start + most)
    largest = max((abs(word["contribution"]) for word in inside), default=0.0) or 1.0
    pieces: list[dict[str, Any]] = []
    at = start
    for word in inside:
        if word["start"] < at or word["end"] > end:  # overlapping windows, or beyond what is shown
            continue
        if word["start"] > at:
            pieces.append({"text": text[at : word["start"]], "contribution": None, "strength": 0.0})
        value = word["contribution"]
        pieces.append({"text": text[word["start"] : word["end"]], "contribution": value, "strength": abs(value) / largest})
        at = word["end"]
    if at < end:
        pieces.append({"text": text[at:end], "contribution": None, "strength": 0.0})
    ranked = sorted(words, key=lambda word: -abs(word["contribution"]))
    return {
        "pieces": pieces,
        "before": start,
        "after": len(text) - end,
        "strongest": [{"word": word["word"], "contribution": word["contribution"]} for word in ranked[:8]],
    }
