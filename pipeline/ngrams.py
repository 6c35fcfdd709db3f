"""Positions of n-grams of scikit-learn's text vectorizers in a text."""

import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

NGRAM_VECTORIZERS = (CountVectorizer, HashingVectorizer)  # TfidfVectorizer is a CountVectorizer
# an ideograph, a word, or a punctuation mark
_WORDS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]|_")
_PIECES = re.compile(r"\w+|[^\w\s]")

Span = tuple[int, int]


class Ngram(NamedTuple):
    """An n-gram with the places of its words."""

    text: str
    spans: list[Span]


def word_spans(text: str) -> list[Span]:
    """Return start and end of each word and mark."""
    return [match.span() for match in _WORDS.finditer(text)]


def origins(text: str, cleaned: str) -> np.ndarray:
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


def place_of(places: np.ndarray, start: int, end: int) -> Span | None:
    """Return the place of a cleaned span in the text, by `origins`."""
    own = places[max(start, 0) : end]
    own = own[own[:, 0] >= 0]
    return (int(own[:, 0].min()), int(own[:, 1].max())) if len(own) else None


def ngrams_of(vectorizer: Any, text: str) -> list[Ngram]:
    """Return every occurrence of an n-gram, none for a custom analyzer."""
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
    places = origins(text, line)
    return [
        Ngram(ngram, [place for span in spans if (place := place_of(places, *span)) is not None])
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


def ngram_shares(
    vectorizer: Any, text: str, row: Any, weights: np.ndarray
) -> tuple[list[Ngram], np.ndarray, np.ndarray]:
    """Split features @ weights into n-grams and a rest."""
    ngrams = ngrams_of(vectorizer, text)
    value_of = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
    columns = _columns(vectorizer, [ngram.text for ngram in ngrams])
    times = Counter(columns)
    kept = [i for i, column in enumerate(columns) if column in value_of and ngrams[i].spans]
    # n-grams of one column, equal ones or hash collisions, share its value
    values = np.array([value_of[columns[i]] / times[columns[i]] for i in kept])
    shares = values[:, None] * weights[[columns[i] for i in kept]]  # (n_ngrams, n_outputs)
    rest = np.asarray(row @ weights).ravel() - shares.sum(axis=0)
    return [ngrams[i] for i in kept], shares, rest


def _columns(vectorizer: Any, ngrams: list[str]) -> list[int]:
    if not isinstance(vectorizer, HashingVectorizer):
        return [vectorizer.vocabulary_.get(ngram, -1) for ngram in ngrams]
    hasher = FeatureHasher(vectorizer.n_features, input_type="string", alternate_sign=False)
    return hasher.transform([[ngram] for ngram in ngrams]).indices.tolist() if ngrams else []
