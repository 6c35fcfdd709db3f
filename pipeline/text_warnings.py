"""Warnings about texts that a model cannot read in full: truncated or unknown."""

import unicodedata
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import numpy as np

from pipeline.exceptions import TruncationWarning, UnknownTokensWarning

FEW = 5  # texts of a call that are too few for a share: a service sends one at a time
# Pieces per letter from which a script is spelled out. English has 0.25; Russian or Greek letter by
# letter about 1; Korean in parts of syllables 1.2 to 2. Models for Chinese read single characters.
_SPELT = dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA"), 1.5) | {"HANGUL": 1.0, "LATIN": np.inf}
_SPELT_ELSEWHERE = 0.75
# of the texts, and of the words in each: a tweet with an emoji or two is fine
_UNKNOWN_SHARE = 0.2

_OTHER_MODEL = (
    "Use a model for this language or a multilingual one, such as "
    "'intfloat/multilingual-e5-small' (docs/models.md)"
)

_WARNED: deque[Any] = deque(maxlen=1000)
_fit: ContextVar[Any] = ContextVar("fit", default=None)  # stands for a search in `warned_once`


@contextmanager
def warned_once() -> Iterator[None]:
    """Warn of truncation and unknown characters once within this block."""
    token = _fit.set(object())
    try:
        yield
    finally:
        _fit.reset(token)


def _is_news(of: str, search: Any = None) -> bool:
    """Return whether to warn now: once per search, always outside of one."""
    search = _fit.get() if search is None else search
    if search is None:
        return True
    is_news = (of, search) not in _WARNED
    _WARNED.append((of, search))
    return is_news


def search_of(context: Any) -> tuple[Any, str]:
    """Return the search around a fit, and the fit's place in it."""
    place, root, is_refit = "", context.root_uuid, False
    while context is not None:
        tasks = {context.task_name, context.source_task_name}
        if "candidate-split-evaluation" in tasks:
            place = f"fit {context.task_id + 1} of {context.parent.max_subtasks}"
        is_refit |= "refit-with-best-params" in tasks
        context = context.parent
    return root if place or is_refit else None, place


def warn_truncation(
    report: dict[str, Any], max_length: int, truncation: str, cure: str, search: Any = None
) -> None:
    """Warn of truncation, once per search."""
    if report["texts_cut"] and _is_news("truncation", search):
        warnings.warn(
            f"{report['texts_cut']} of {report['n_texts']} texts are longer than "
            f"max_length={max_length} tokens; truncation={truncation!r} cut "
            f"{report['tokens_lost']} of {report['n_tokens']} tokens "
            f"({report['share_lost']:.1%}). {cure}",
            TruncationWarning,
            stacklevel=5,
        )


def count_words(texts: Sequence[str], prompt: str = "") -> np.ndarray:
    """Return the number of words between blanks, with the prompt's, (n_texts,)."""
    n = len(prompt.split())
    return np.array([len(text.split()) + n for text in texts], dtype=np.int64)


def unknown_report(
    n_tokens: np.ndarray, n_unknown: np.ndarray, n_words: np.ndarray
) -> dict[str, Any]:
    """Count unknown tokens and words. Each argument is (n_texts,), int64."""
    total, unknown, words = int(n_tokens.sum()), int(n_unknown.sum()), int(n_words.sum())
    return {
        "n_texts": len(n_tokens),
        "texts_with_unknown": int((n_unknown > 0).sum()),
        "n_tokens": total,
        "tokens_unknown": unknown,
        "share_unknown": unknown / total if total else 0.0,
        "n_words": words,
        "pieces_per_word": (total - 2 * len(n_tokens)) / words if words else 0.0,
    }


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]


def spelt_out(texts: Sequence[str], n_tokens: np.ndarray) -> list[str | None]:
    """Return the script of texts that are read letter by letter."""
    found: list[str | None] = []
    for text, n in zip(texts, n_tokens.tolist(), strict=True):
        letters = [] if text.isascii() else list(filter(str.isalpha, text))
        script, count = Counter(map(_script, letters)).most_common(1)[0] if letters else ("", 0)
        limit = _SPELT.get(script, _SPELT_ELSEWHERE)
        spelt = count > len(letters) / 2 and n - 2 > limit * len(letters)
        found.append(script.title() if spelt else None)
    return found


def warn_unknown(
    texts: Sequence[str],
    n_unknown: np.ndarray,
    n_tokens: np.ndarray,
    model: str,
    *,
    at_least: int = 1,
) -> None:
    """Warn of texts that are unknown or spelled out."""
    n_looked_at = min(len(texts), 10_000)
    scripts = spelt_out(texts[:n_looked_at], n_tokens[:n_looked_at])
    script, n_spelt = Counter(filter(None, scripts)).most_common(1)[0] if any(scripts) else ("", 0)
    # no counts in the messages: equal ones are shown once per search
    many = n_spelt >= at_least and n_spelt > _UNKNOWN_SHARE * n_looked_at
    if many and _is_news("script"):
        message = (
            f"More than {_UNKNOWN_SHARE:.0%} of the texts are in {script} letters, which {model!r} "
            "was not trained on: it splits words into single letters, and its vectors carry little "
            f"of their meaning. {_OTHER_MODEL}."
        )
    else:
        # in plain ASCII, [UNK] is a word of more than 100 characters
        unread = [
            text
            for text, n in zip(texts, n_unknown.tolist(), strict=True)
            if n and not text.isascii() and n > _UNKNOWN_SHARE * len(text.split())
        ]
        many = len(unread) >= at_least and len(unread) > _UNKNOWN_SHARE * len(texts)
        if not many or not _is_news("unknown"):
            return
        letters = (letter for text in unread[:1000] for letter in filter(str.isalpha, text))
        named = Counter(script for script in map(_script, letters) if script != "LATIN")
        what, cure = "emoji or symbols", "Replace them by words"
        if named:
            (script, _), *_ = named.most_common(1)
            what, cure = f"{script if script == 'CJK' else script.title()} characters", _OTHER_MODEL
        message = (
            f"More than {_UNKNOWN_SHARE:.0%} of the texts contain {what} that are not in the "
            f"vocabulary of {model!r}, in more than a fifth of their words: such a word is read as "
            f"[UNK]. count_tokens(X)['n_unknown'] counts them. {cure}."
        )
    warnings.warn(message, UnknownTokensWarning, stacklevel=4)
