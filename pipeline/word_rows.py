"""Contributions of the parts of a decision to each word of a text."""

from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.ngrams import Ngram, Span, ngram_shares, origins, place_of, word_spans
from pipeline.token_level import join_words

Level = Literal["word", "token"]
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
        Contribution of each n-gram, (n_outputs,), by part, n-gram and the spans of its words; also
        included in the values of the words.
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
        part = self.names.index(name)
        ngrams, shares, rest = ngram_shares(vectorizer, own_text, features, weights)
        if own_text != self.text:
            places = origins(self.text, own_text)
            ngrams = [
                Ngram(ngram, [own for span in spans if (own := place_of(places, *span))])
                for ngram, spans in ngrams
            ]
        self._rest[part] += rest
        for ngram, share in zip(ngrams, shares, strict=True):
            words = [
                [i for i in range(*span) if not self.text[i].isspace()] for span in ngram.spans
            ]
            words = [word for word in words if word]
            if not words:
                self._rest[part] += share
                continue
            for word in words:
                self._letters[word, part] += share / (len(words) * len(word))
            key = name, ngram.text, tuple(ngram.spans)
            self.ngrams[key] = self.ngrams.get(key, 0.0) + share

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
    places, spans, at = origins(text, own_text), [], 0
    for start, end in zip(frame["start"], frame["end"], strict=True):
        is_last = start == end == len(own_text)
        spans.append(
            place_of(places, start, end) or ((len(text), len(text)) if is_last else (at, at))
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
