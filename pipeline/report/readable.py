"""Other people's texts made fit to be shown: what would steer a page or a terminal is spelt out. Used by report."""

import re
import unicodedata

# C0 and C1 controls but tab and line feed, lone surrogates, what turns the direction of all that follows, non-characters
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)


def readable(text: object) -> str:
    r"""Return a value's text with control characters, lone surrogates and marks that turn the direction spelt out.

    Parameters
    ----------
    text : object
        Anything; ``str`` of it is taken.

    Returns
    -------
    str
        Encodable in UTF-8. Joiners, as in emoji and in Persian, stay.

    Examples
    --------
    >>> readable("left\u202eright\x07")
    'left\\u202eright\\x07'
    """
    return _STEERING.sub(lambda found: repr(found[0])[1:-1], str(text).replace("\r\n", "\n"))


def shortened(text: object, most: int) -> str:
    """Return the beginning of a text in one line, with an ellipsis where something was left out.

    Parameters
    ----------
    text : object
    most : int
        Columns at most; the wide characters of East Asia count two.

    Examples
    --------
    >>> shortened("A quiet,  lovely film", 10)
    'A quiet, …'
    """
    line = " ".join(readable(str(text)[: 4 * most]).split())
    if columns(line) <= most and len(str(text)) <= 4 * most:
        return line
    while line and columns(line) > most - 1:
        line = line[:-1]
    return f"{line}…"


def columns(text: str) -> int:
    """Return how wide a text is in columns: 2 for the wide characters of East Asia and emoji, 0 for marks, 1 for the others."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
