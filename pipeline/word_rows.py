"""Contributions of tokens and n-grams, placed on the words of a text."""

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

from pipeline.token_level import join_words

Level = Literal["word", "token"]
Span = tuple[int, int]
NGRAM_VECTORIZERS = (CountVectorizer, HashingVectorizer)  # TfidfVectorizer is a CountVectorizer
# an ideograph, a word, or a punctuation mark
_WORDS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]|_")
_PIECES = re.compile(r"\w+|[^\w\s]")
_ROUNDING = 1e-9


class WordRows:
    """The words of a text with the contributions of each part.

    Attributes
    ----------
    rows : list of (str, int, int)
        Word or token, start and end.
    values : ndarray of shape (n_rows, n_parts, n_outputs)
        After `finish`.
    ngrams : dict
        Contribution of each n-gram, (n_outputs,), by part, n-gram and the spans of its words. The
        values include it.
    """

    def __init__(self, text: str, names: list[str], n_outputs: int) -> None:
        shape = (len(names), n_outputs)
        self.text, self.names = text, names
        self.rows: list[tuple[str, int, int]] = []
        self.values = np.zeros((0, *shape))
        self.ngrams: dict[tuple[str, str, tuple[Span, ...]], np.ndarray] = {}
        self._letters = np.zeros((len(text), *shape))  # from n-grams and other tokenizers
        self._rest = np.zeros(shape)  # outside words

    def add_tokens(self, name: str, shares: pd.DataFrame, own_text: str, level: Level) -> None:
        """Add the `token_shares` of the text or its cleaned form."""
        frame = _placed(shares, own_text, self.text, level)
        part, values = self.names.index(name), frame.iloc[:, 3:].to_numpy()
        rows = list(zip(frame.iloc[:, 0], frame["start"], frame["end"], strict=True))
        if not self.rows:
            self.rows, self.values = rows, np.zeros((len(rows), *self._rest.shape))
        if rows == self.rows:
            self.values[:, part] += values
            return
        for row, share in zip(rows, values, strict=True):
            if row[1] < row[2]:
                self._letters[row[1] : row[2], part] += share / (row[2] - row[1])
            elif row in self.rows:
                self.values[self.rows.index(row), part] += share
            else:
                self._rest[part] += share

    def add_ngrams(
        self, name: str, vectorizer: Any, own_text: str, features: Any, weights: np.ndarray
    ) -> None:
        """Add the n-grams of the text or its cleaned form."""
        part, ngrams = self.names.index(name), _ngrams_of(vectorizer, own_text)
        columns = _columns(vectorizer, [ngram for ngram, _ in ngrams])
        value_of = dict(zip(features.indices.tolist(), features.data.tolist(), strict=True))
        times = Counter(columns)
        kept = [i for i, column in enumerate(columns) if column in value_of and ngrams[i][1]]
        # n-grams of one column, equal ones or hash collisions, share its value
        values = np.array([value_of[columns[i]] / times[columns[i]] for i in kept])
        shares = values[:, None] * weights[[columns[i] for i in kept]]  # (n_ngrams, n_outputs)
        self._rest[part] += np.asarray(features @ weights).ravel() - shares.sum(axis=0)
        places = _origins(self.text, own_text)
        for i, share in zip(kept, shares, strict=True):
            ngram, spans = ngrams[i]
            spans = [own for span in spans if (own := _place_of(places, *span))]
            words = [[at for at in range(*span) if not self.text[at].isspace()] for span in spans]
            words = [word for word in words if word]
            for word in words:
                self._letters[word, part] += share / (len(words) * len(word))
            if words:
                key = name, ngram, tuple(spans)
                self.ngrams[key] = self.ngrams.get(key, 0.0) + share
            else:
                self._rest[part] += share

    def finish(self) -> None:
        """Move contributions from characters to words."""
        cover = np.zeros(len(self.text), dtype=np.int64)
        for _, start, end in self.rows:
            cover[start:end] += 1
        holds = np.abs(self._letters).sum(axis=(1, 2)) > 0
        added = []
        for start, end in word_spans(self.text):  # without a token, for example truncated ones
            free = [i for i in range(start, end) if not cover[i]]
            if free and (holds[free].any() or not self.rows):
                added.append((self.text[free[0] : free[-1] + 1], free[0], free[-1] + 1))
        for _, start, end in added:
            cover[start:end] += 1
        rows = [*self.rows, *added]
        values = np.concatenate([self.values, np.zeros((len(added), *self._rest.shape))])
        each = self._letters / np.maximum(cover, 1)[:, None, None]
        for i, (_, start, end) in enumerate(rows):
            values[i] += each[start:end].sum(axis=0)
        if added:
            order = sorted(range(len(rows)), key=lambda i: rows[i][1:])
            rows, values = [rows[i] for i in order], values[order]
        self._rest += self._letters[cover == 0].sum(axis=0)
        for part, name in enumerate(self.names):
            if np.abs(self._rest[part]).max() > _ROUNDING:
                rows.append((f"({name or 'n-grams'})", len(self.text), len(self.text)))
                own = np.zeros((1, *self._rest.shape))
                own[0, part] = self._rest[part]
                values = np.concatenate([values, own])
        self.rows, self.values = rows, values


def _placed(shares: pd.DataFrame, own_text: str, text: str, level: Level) -> pd.DataFrame:
    """Return rows of a text from the shares of its cleaned form."""
    frame = join_words(shares, own_text) if level == "word" else shares.drop(columns="word")
    if own_text == text:
        return frame
    places, spans, at = _origins(text, own_text), [], 0
    for start, end in zip(frame["start"], frame["end"], strict=True):
        is_last = start == end == len(own_text)
        spans.append(
            _place_of(places, start, end) or ((len(text), len(text)) if is_last else (at, at))
        )
        at = spans[-1][1]
    frame["start"], frame["end"] = [start for start, _ in spans], [end for _, end in spans]
    if level == "token":
        return frame
    frame["word"] = [
        text[start:end] or word for word, (start, end) in zip(frame["word"], spans, strict=True)
    ]
    # words that were rewritten together count as one
    same = (frame[["start", "end"]].diff() == 0).all(axis=1) & (frame["start"] < frame["end"])
    first = dict.fromkeys(["word", "start", "end"], "first")
    joined = frame.groupby((~same).cumsum())
    return joined.agg({**first, **dict.fromkeys(frame.columns[3:], "sum")}).reset_index(drop=True)


def word_spans(text: str) -> list[Span]:
    """Return start and end of each word and mark."""
    return [match.span() for match in _WORDS.finditer(text)]


def _origins(text: str, cleaned: str) -> np.ndarray:
    """Return the origin of each cleaned character, (n, 2) or -1."""
    if len(cleaned) == len(text) and cleaned in (text, text.lower()):
        return np.arange(len(text))[:, None] + [0, 1]
    spans = np.full((len(cleaned), 2), -1)
    ours, theirs = _folded(text), _folded(cleaned)
    before, after = [piece for piece, _ in ours], [piece for piece, _ in theirs]
    matched = SequenceMatcher(None, before, after, autojunk=False)
    same = [("equal", 0, len(ours), 0, len(theirs))]
    for tag, i, i_end, j, j_end in same if before == after else matched.get_opcodes():
        if tag == "equal":
            for (_, places), (_, own) in zip(ours[i:i_end], theirs[j:j_end], strict=True):
                for place, at in zip(places, own, strict=True):
                    start = spans[at, 0] if spans[at, 0] >= 0 else place
                    spans[at] = start, place + 1
        elif tag == "replace":  # only the whole of a rewritten part is known
            whole = ours[i][1][0], ours[i_end - 1][1][-1] + 1
            for _, own in theirs[j:j_end]:
                spans[own] = whole
    return spans


def _folded(text: str) -> list[tuple[str, list[int]]]:
    """Return words without case and accents, with their places."""
    letters = [
        (part, i)
        for i, letter in enumerate(text)
        for part in unicodedata.normalize("NFKD", letter).casefold()
        if not unicodedata.combining(part)
    ]
    line = "".join(part for part, _ in letters)
    return [
        (match[0], [i for _, i in letters[match.start() : match.end()]])
        for match in _PIECES.finditer(line)
    ]


def _place_of(places: np.ndarray, start: int, end: int) -> Span | None:
    """Return the place of a cleaned span in the text, by `_origins`."""
    own = places[max(start, 0) : end]
    own = own[own[:, 0] >= 0]
    return (int(own[:, 0].min()), int(own[:, 1].max())) if len(own) else None


def _ngrams_of(vectorizer: Any, text: str) -> list[tuple[str, list[Span]]]:
    """Return each n-gram with the places of its words, none for a custom analyzer."""
    if callable(vectorizer.analyzer):
        return []
    line = vectorizer.build_preprocessor()(text)
    low, high = vectorizer.ngram_range
    found: list[tuple[str, list[Span]]] = []
    if vectorizer.analyzer == "word":
        stop_words = vectorizer.get_stop_words() or ()
        words = [(word, span) for word, span in _words(vectorizer, line) if word not in stop_words]
        for n in range(low, high + 1):
            for i in range(len(words) - n + 1):
                own = words[i : i + n]
                found.append((" ".join(word for word, _ in own), [span for _, span in own]))
    else:
        line = re.sub(r"\s\s+", " ", line)
        padded = vectorizer.analyzer == "char_wb"
        units = [(f" {m[0]} ", m.start() - 1) for m in re.finditer(r"\S+", line)]
        for unit, start in units if padded else [(line, 0)]:
            for n in range(low, high + 1):
                for i in range(max(len(unit) - n + 1, int(padded))):
                    found.append((unit[i : i + n], [(start + i, start + i + n)]))
                if n >= len(unit):
                    break
    places = _origins(text, line)
    return [
        (ngram, [place for span in spans if (place := _place_of(places, *span))])
        for ngram, spans in found
    ]


def _words(vectorizer: Any, line: str) -> list[tuple[str, Span]]:
    if vectorizer.tokenizer is None:
        pattern = re.compile(vectorizer.token_pattern)
        return [(m[pattern.groups], m.span(pattern.groups)) for m in pattern.finditer(line)]
    words, at = [], 0
    for word in vectorizer.tokenizer(line):
        start = line.find(word, at)
        words.append((word, (start, start + len(word)) if start >= 0 else (0, 0)))
        at = max(at, start + len(word)) if start >= 0 else at
    return words


def _columns(vectorizer: Any, ngrams: list[str]) -> list[int]:
    if not isinstance(vectorizer, HashingVectorizer):
        return [vectorizer.vocabulary_.get(ngram, -1) for ngram in ngrams]
    hasher = FeatureHasher(vectorizer.n_features, input_type="string", alternate_sign=False)
    return hasher.transform([[ngram] for ngram in ngrams]).indices.tolist() if ngrams else []
