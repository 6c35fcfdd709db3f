"""Make user texts safe to display."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

# C0 and C1 controls except tab and line feed, lone surrogates, direction marks, non-characters
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)


def readable(text: object) -> str:
    """Escape control characters, lone surrogates and direction marks in a value's text."""
    # Joiners stay, as emoji and Persian need them.
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], str(text).replace("\r\n", "\n"))


def shortened(text: object, most: int) -> str:
    """Return a text on one line of at most ``most`` columns."""
    line = " ".join(readable(str(text)[: 4 * most]).split())
    if columns(line) <= most and len(str(text)) <= 4 * most:
        return line
    while line and columns(line) > most - 1:
        line = line[:-1]
    return f"{line}…"


def columns(text: str) -> int:
    """Return the width of a text in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def strongest(words: Sequence[Mapping[Any, Any]], most: int) -> list[Mapping[Any, Any]]:
    """Return the words with the largest contributions, without marks and special tokens."""
    content = [
        word
        for word in words
        if word["start"] < word["end"]
        and not all(unicodedata.category(c)[0] == "P" for c in word["word"])
    ]
    return sorted(content, key=lambda word: -abs(word["contribution"]))[:most]


def never_predicted(classes: Sequence[Any]) -> str:
    """Name the classes that are never predicted, with advice."""
    names = ", ".join(repr(str(name)) for name in classes)
    which = f"The class {names} is" if len(classes) == 1 else f"The classes {names} are"
    return (
        f"{which} never predicted. Give rare classes more weight with class_weight='balanced' "
        "(--class-weight balanced); with two classes, TunedThresholdClassifierCV tunes the "
        "threshold."
    )
