"""Vectors of tokens and words, and their shares of a linear function."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from pipeline.bert.embedding import FrozenBert, Plan, TokenCounts
from pipeline.bert.pooling import Pooling
from pipeline.bert.sentence_modules import SentenceModules
from pipeline.bert.tokenizing import Pieces, TextTokenizer
from pipeline.text_warnings import count_words
from pipeline.texts import Missing, OnInvalid, check_texts, check_words, check_X, take_columns

CombineLayers = Callable[[np.ndarray], np.ndarray]


def _by_text(
    plan: Plan, vectors: Sequence[np.ndarray]
) -> Iterator[tuple[Any, Pieces, Sequence[np.ndarray]]]:
    """Yield each distinct text, its pieces, and the vectors of its windows."""
    assert plan.encodings is not None, "plan(pieces=True) is needed"
    stops = np.cumsum(plan.n_windows)
    starts = stops - plan.n_windows
    for text, pieces, start, stop in zip(plan.texts, plan.encodings, starts, stops, strict=True):
        yield text, pieces, vectors[start:stop]


def _merge_windows(
    vectors: Sequence[np.ndarray], pieces: Pieces, tokenizer: TextTokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Return a text's kept tokens and their vectors, averaged over windows."""
    windows = tokenizer.windows(len(pieces.ids))
    if len(windows) == 1:
        return windows[0], vectors[0]
    kept = np.unique(np.concatenate(windows))
    n_special = len(tokenizer.prefix) + len(tokenizer.suffix)
    total = np.zeros((n_special + len(kept), *vectors[0].shape[1:]), dtype=np.float64)
    count = np.zeros(len(total), dtype=np.int64)
    for vector, window in zip(vectors, windows, strict=True):
        rows = _rows_of(window, kept, tokenizer)
        total[rows] += vector
        count[rows] += 1
    return kept, (total / count[:, None, None]).astype(np.float32)


def _rows_of(window: np.ndarray, kept: np.ndarray, tokenizer: TextTokenizer) -> np.ndarray:
    """Return the places of a window's tokens, with special ones."""
    n_prefix, n_suffix = len(tokenizer.prefix), len(tokenizer.suffix)
    own = n_prefix + np.searchsorted(kept, window)
    return np.concatenate([np.arange(n_prefix), own, n_prefix + len(kept) + np.arange(n_suffix)])


def _token_columns(
    plan: Plan, vectors: Sequence[np.ndarray], tokenizer: TextTokenizer
) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Return columns and vectors of tokens, per distinct text."""
    positions, ids, rows = [], [], []
    for _, pieces, of_windows in _by_text(plan, vectors):
        kept, merged = _merge_windows(of_windows, pieces, tokenizer)
        own = np.array(pieces.ids, dtype=np.int64)
        positions.append(_rows_of(kept, np.arange(len(own)), tokenizer))
        ids.append(np.concatenate([tokenizer.prefix, own[kept], tokenizer.suffix]))
        rows.append(merged)
    return {"position": positions, "token_id": ids}, rows


def _word_columns(
    plan: Plan, vectors: Sequence[np.ndarray], tokenizer: TextTokenizer
) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Return columns and vectors of words, per distinct text."""
    # words that truncation or the tokenizer removed have no row
    positions, words, counts, rows = [], [], [], []
    for text, pieces, of_windows in _by_text(plan, vectors):
        kept, merged = _merge_windows(of_windows, pieces, tokenizer)
        own = merged[len(tokenizer.prefix) :][: len(kept)]  # (n_kept, n_layers, hidden_size)
        word_of = np.array([-1 if w is None else w for w in pieces.word_ids], dtype=np.int64)[kept]
        own, word_of = own[word_of >= 0], word_of[word_of >= 0]
        numbers, start, n_pieces = np.unique(word_of, return_index=True, return_counts=True)
        means = [own[s : s + n].mean(axis=0) for s, n in zip(start, n_pieces, strict=True)]
        rows.append(np.stack(means) if means else own)
        positions.append(numbers)
        counts.append(n_pieces)
        if isinstance(text, str):
            text = {word: text[a:b] for word, (a, b) in word_spans_of(pieces).items()}
        words.append(np.array([text[number] for number in numbers.tolist()], dtype=object))
    return {"position": positions, "word": words, "n_tokens": counts}, rows


def word_spans_of(pieces: Pieces) -> dict[int, tuple[int, int]]:
    """Return start and end of each word, by its number."""
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(pieces.word_ids, pieces.offsets, strict=True):
        if word is not None:
            before = spans.get(word, (start, end))
            spans[word] = (min(before[0], start), max(before[1], end))
    return spans


def share_out(
    vectors: Sequence[np.ndarray],
    pieces: Pieces,
    text: str,
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    weights: np.ndarray,
    base: np.ndarray | float = 0.0,
) -> pd.DataFrame:
    """Split ``features @ weights - base`` of a text into tokens."""
    windows = tokenizer.windows(len(pieces.ids))
    kept = np.unique(np.concatenate(windows))
    rows: list[tuple[str, int | None, int, int]] = [
        *((tokenizer.token(token_id), None, 0, 0) for token_id in tokenizer.prefix),
        *((pieces.tokens[i], pieces.word_ids[i], *pieces.offsets[i]) for i in kept),
        *((tokenizer.token(token_id), None, len(text), len(text)) for token_id in tokenizer.suffix),
    ]
    frame = pd.DataFrame(rows, columns=["token", "word", "start", "end"]).astype({"word": object})
    shares = np.zeros((len(rows), weights.shape[1]))  # (n_rows, n_outputs)
    n_tokens = sum(len(of_window) for of_window in vectors)
    # exact: means and combinations of layers are linear
    for of_window, window in zip(vectors, windows, strict=True):
        own = combine(of_window[:, None]).astype(np.float64) @ weights
        shares[_rows_of(window, kept, tokenizer)] += (own - base) / n_tokens
    return pd.concat([frame, pd.DataFrame(shares)], axis=1)


def join_words(shares: pd.DataFrame, text: str) -> pd.DataFrame:
    """Sum the pieces of each word."""
    number = shares["word"].astype(float).fillna(-1).to_numpy()
    # tokens outside words are groups of their own
    group = np.cumsum(np.concatenate([[True], (number[1:] != number[:-1]) | (number[1:] < 0)]))
    how = {"token": "first", "start": "min", "end": "max"}
    joined = shares.groupby(group).agg(how | dict.fromkeys(shares.columns[4:], "sum"))
    spans = [trimmed(text, *span) for span in zip(joined["start"], joined["end"], strict=True)]
    joined[["start", "end"]] = spans
    words = [text[a:b] or token for (a, b), token in zip(spans, joined["token"], strict=True)]
    joined.insert(0, "word", words)
    return joined.drop(columns="token").reset_index(drop=True)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without surrounding blanks."""
    word = text[start:end]
    if not word.strip():
        return start, end
    return start + len(word) - len(word.lstrip()), end - len(word) + len(word.rstrip())


_TEXTS_AT_ONCE = 64  # whose token vectors are in memory together


class TokenLevelMixin:
    """Token- and word-level methods of BertVectorizer."""

    pooling: Pooling | Literal["checkpoint"] | tuple[Pooling, ...]
    normalize: bool
    missing: Missing
    on_invalid: OnInvalid
    _bert: Callable[[], FrozenBert]
    _modules: Callable[[], SentenceModules]
    _combine_layers: CombineLayers
    _names: Callable[[tuple[str, ...]], list[str]]
    _warn_truncation: Callable[[TokenCounts], None]

    def transform_tokens(self, X: Iterable[Any], level: str = "token") -> pd.DataFrame:
        """Return one vector per token or word, instead of one per text.

        Ignores ``pooling`` and ``normalize``. A token in two windows (``truncation="window"``) gets
        the mean of both vectors.

        Parameters
        ----------
        X : iterable of str, or of lists of str
            Texts as in `fit`; with ``level="word"`` also texts already split into words.
        level : {"token", "word"}, default="token"
            ``"word"`` averages the word pieces of each word: those of the model's tokenizer (BERT's
            splits at punctuation: ``don't`` is three words), or the given ones.

        Returns
        -------
        DataFrame
            ``text`` (index label of the row), ``position`` (in the whole text), then ``token`` and
            ``token_id``, or ``word`` and ``n_tokens``, then one column per feature.
        """
        check_is_fitted(self)
        if level not in ("token", "word"):
            raise ValueError(f"level={level!r}; allowed are 'token' and 'word'.")
        table = take_columns(X)
        texts = (check_words(table) if level == "word" else None) or check_texts(
            table, missing=self.missing, on_invalid=self.on_invalid
        )
        bert = self._bert()
        plan = bert.plan(texts, pieces=True)
        self._warn_truncation(plan.counts)
        labels = range(len(texts)) if table.index is None else table.index
        names = [name.removeprefix("token_") for name in self._names(("token",))]
        columns_of = _token_columns if level == "token" else _word_columns
        columns, rows = columns_of(plan, bert.embed_tokens(plan), bert.tokenizer)
        n_rows = [len(rows[i]) for i in plan.row_of]
        cells: dict[str, Any] = {"text": pd.Series(list(labels)).repeat(n_rows).to_numpy()}
        for name, parts in columns.items():
            of_texts = [parts[i] for i in plan.row_of]
            cells[name] = np.concatenate([np.zeros(0, dtype=np.int64), *of_texts])
        values = np.zeros((0, len(names)), dtype=np.float32)
        if sum(n_rows):
            values = self._combine_layers(np.concatenate([rows[i] for i in plan.row_of])[:, None])
        frame = pd.concat([pd.DataFrame(cells), pd.DataFrame(values, columns=names)], axis=1)
        if level == "token":
            piece_of = {i: bert.tokenizer.token(i) for i in frame["token_id"].unique()}
            frame.insert(2, "token", frame["token_id"].map(piece_of).astype(str))
        return frame

    def token_shares(
        self, X: Iterable[str], weights: np.ndarray, base: np.ndarray | None = None
    ) -> list[pd.DataFrame]:
        """Split ``transform(X) @ weights`` among the tokens of each text, exactly.

        The mean of the token vectors and every combination of layers are linear.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.
        weights : ndarray of shape (n_features, n_outputs)
            Weights of the linear function.
        base : ndarray of shape (n_outputs,), optional
            Subtracted from the total, in equal parts from each token, such as ``mean_ @ weights``
            for shares relative to the mean text.

        Returns
        -------
        list of DataFrame, length n_texts
            ``token``, ``word`` (its number, None for special tokens), ``start``, ``end``, and
            columns 0 to n_outputs - 1, whose sums are the row of ``transform(X) @ weights - base``.

        Raises
        ------
        ValueError
            For other poolings, ``normalize=True``, and weights of another shape.
        """
        check_is_fitted(self)
        bert = self._bert()
        only_means = bert.poolings == ("mean",) and not (self.normalize or bert.skip)
        if not only_means or (self.pooling == "checkpoint" and self._modules().steps):
            raise ValueError(
                f"pooling={self.pooling!r}, normalize={self.normalize}: only the plain mean is a "
                "sum over tokens. Use pooling='mean' and normalize=False."
            )
        weights = np.asarray(weights, dtype=np.float64)
        n_features = len(self._names(("mean",)))
        if weights.ndim != 2 or len(weights) != n_features:
            raise ValueError(
                f"weights has shape {weights.shape}; allowed is ({n_features}, n_outputs), a row "
                "per feature."
            )
        texts = check_X(self, X, reset=False)
        options = (bert.tokenizer, self._combine_layers, weights, 0.0 if base is None else base)
        frames: dict[str, pd.DataFrame] = {}
        distinct = list(dict.fromkeys(texts))
        counts = []
        for start in range(0, len(distinct), _TEXTS_AT_ONCE):
            plan = bert.plan(distinct[start : start + _TEXTS_AT_ONCE], pieces=True)
            counts.append(plan.counts)
            for text, pieces, vectors in _by_text(plan, bert.embed_tokens(plan)):
                frames[text] = share_out(vectors, pieces, text, *options)
        if counts:
            self._warn_truncation(TokenCounts(*np.hstack(counts)))
        return [frames[text].copy() for text in texts]

    def count_tokens(self, X: Iterable[str]) -> pd.DataFrame:
        """Count the tokens of each text, with truncated and unknown ones.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        DataFrame
            ``n_tokens`` (of the whole text, with [CLS] and [SEP]), ``n_lost``, ``n_unknown``
            ([UNK]) and ``n_words`` (between blanks), with the index of X.
        """
        check_is_fitted(self)
        table = take_columns(X, on_invalid=self.on_invalid)
        texts = check_texts(table, missing=self.missing, on_invalid=self.on_invalid)
        bert = self._bert()
        tokenized, n_words = bert.tokenizer(texts), count_words(texts, bert.prompt)
        names = ("n_tokens", "n_lost", "n_unknown")
        counts = {name: getattr(tokenized, name) for name in names}
        return pd.DataFrame({**counts, "n_words": n_words}, index=table.index)

    def word_spans(self, X: Iterable[str]) -> list[list[tuple[int, int]]]:
        """Find the words of each text, as split by the tokenizer.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        list of list of (int, int), length n_texts
            Start and end of each word, in characters, including words that truncation would cut.
        """
        check_is_fitted(self)
        texts = check_X(self, X, reset=False)
        encodings, _ = self._bert().tokenizer.with_pieces(texts)
        return [
            [trimmed(text, *span) for span in word_spans_of(encoding).values()]
            for text, encoding in zip(texts, encodings, strict=True)
        ]
