"""Vectors of tokens and words, and their shares of a linear function."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from pipeline.bert.embedding import FrozenBert, Plan, TokenCounts
from pipeline.bert.tokenizing import Pieces, TextTokenizer
from pipeline.text_warnings import count_words
from pipeline.texts import Missing, OnInvalid, check_texts, check_words, check_X, take_columns

CombineLayers = Callable[[np.ndarray], np.ndarray]


def merge_windows(
    vectors: Sequence[np.ndarray], windows: Sequence[np.ndarray], n_prefix: int, n_suffix: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a text's kept tokens and their vectors, averaged over windows."""
    if len(windows) == 1:
        return windows[0], vectors[0]
    kept = np.unique(np.concatenate(windows))
    total = np.zeros((n_prefix + len(kept) + n_suffix, *vectors[0].shape[1:]), dtype=np.float64)
    count = np.zeros(len(total), dtype=np.int64)
    for vector, window in zip(vectors, windows, strict=True):
        rows = _rows_of(window, kept, n_prefix, n_suffix)
        total[rows] += vector
        count[rows] += 1
    return kept, (total / count[:, None, None]).astype(np.float32)


def _rows_of(window: np.ndarray, kept: np.ndarray, n_prefix: int, n_suffix: int) -> np.ndarray:
    """Return the places of a window's tokens between the special tokens, (n_tokens,)."""
    own = n_prefix + np.searchsorted(kept, window)
    return np.concatenate([np.arange(n_prefix), own, n_prefix + len(kept) + np.arange(n_suffix)])


def token_frame(
    plan: Plan,
    vectors: Sequence[np.ndarray],
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    labels: Iterable[Any],
    names: list[str],
) -> pd.DataFrame:
    """Return one row per token of every text, with special tokens."""
    n_prefix, n_suffix = len(tokenizer.prefix), len(tokenizer.suffix)
    positions, ids, rows = [], [], []
    for kept, merged, encoding in _distinct_texts(plan, vectors, tokenizer):
        positions.append(_rows_of(kept, np.arange(len(encoding.ids)), n_prefix, n_suffix))
        own = np.array(encoding.ids, dtype=np.int64)[kept]
        ids.append(np.concatenate([tokenizer.prefix, own, tokenizer.suffix]))
        rows.append(merged)
    columns = {"position": positions, "token_id": ids}
    frame = _assemble(plan, columns, rows, combine, labels, names)
    token_of = {token_id: tokenizer.token(token_id) for token_id in frame["token_id"].unique()}
    frame.insert(2, "token", frame["token_id"].map(token_of).astype(str))
    return frame


def word_frame(
    plan: Plan,
    vectors: Sequence[np.ndarray],
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    labels: Iterable[Any],
    names: list[str],
) -> pd.DataFrame:
    """Return one row per word of every text."""
    # words that truncation or the tokenizer removed have no row
    positions, words, counts, rows = [], [], [], []
    texts = _distinct_texts(plan, vectors, tokenizer)
    for text, (kept, merged, encoding) in zip(plan.texts, texts, strict=True):
        own = merged[len(tokenizer.prefix) :][: len(kept)]  # (n_kept, n_layers, hidden_size)
        word_of = np.array([-1 if w is None else w for w in encoding.word_ids], dtype=np.int64)
        word_of = word_of[kept]
        own, word_of = own[word_of >= 0], word_of[word_of >= 0]
        numbers, start, n_pieces = np.unique(word_of, return_index=True, return_counts=True)
        means = [own[s : s + n].mean(axis=0) for s, n in zip(start, n_pieces, strict=True)]
        rows.append(np.stack(means) if means else own)
        positions.append(numbers)
        counts.append(n_pieces)
        spans = word_spans_of(encoding)
        words.append(np.array([_word(text, spans, int(n)) for n in numbers], dtype=object))
    columns = {"position": positions, "word": words, "n_tokens": counts}
    return _assemble(plan, columns, rows, combine, labels, names)


def _distinct_texts(
    plan: Plan, vectors: Sequence[np.ndarray], tokenizer: TextTokenizer
) -> list[Any]:
    """Return kept tokens, merged vectors and encoding of each distinct text."""
    assert plan.encodings is not None, "plan(pieces=True) is needed"
    starts = np.searchsorted(plan.tokenized.owner, np.arange(len(plan.encodings)))
    merged = []
    for start, encoding in zip(starts, plan.encodings, strict=True):
        windows = tokenizer.windows(len(encoding.ids))
        own = vectors[start : start + len(windows)]
        merged.append(
            (*merge_windows(own, windows, len(tokenizer.prefix), len(tokenizer.suffix)), encoding)
        )
    return merged


def _word(text: str | tuple[str, ...], spans: dict[int, tuple[int, int]], number: int) -> str:
    return text[slice(*spans[number])] if isinstance(text, str) else text[number]


def word_spans_of(pieces: Pieces) -> dict[int, tuple[int, int]]:
    """Return start and end of each word, by its number."""
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(pieces.word_ids, pieces.offsets, strict=True):
        if word is not None:
            before = spans.get(word, (start, end))
            spans[word] = (min(before[0], start), max(before[1], end))
    return spans


def _assemble(
    plan: Plan,
    columns: dict[str, list[np.ndarray]],
    rows: list[np.ndarray],
    combine: CombineLayers,
    labels: Iterable[Any],
    names: list[str],
) -> pd.DataFrame:
    """Repeat values of distinct texts for each text, and combine the layers."""
    n_rows = [len(rows[i]) for i in plan.row_of]
    table: dict[str, Any] = {"text": pd.Series(list(labels)).repeat(n_rows).to_numpy()}
    for name, parts in columns.items():
        empty = np.zeros(0, dtype=np.int64)
        table[name] = np.concatenate([parts[i] for i in plan.row_of]) if parts else empty
    values = np.zeros((0, len(names)), dtype=np.float32)
    if sum(n_rows):
        values = combine(np.concatenate([rows[i] for i in plan.row_of])[:, None])
    return pd.concat([pd.DataFrame(table), pd.DataFrame(values, columns=names)], axis=1)


def share_out(
    vectors: Sequence[np.ndarray],
    encoding: Any,
    text: str,
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    weights: np.ndarray,
    base: np.ndarray | float = 0.0,
) -> pd.DataFrame:
    """Split ``features @ weights - base`` of a text into tokens."""
    windows = tokenizer.windows(len(encoding.ids))
    n_prefix, n_suffix = len(tokenizer.prefix), len(tokenizer.suffix)
    kept = np.unique(np.concatenate(windows))
    shares = np.zeros((n_prefix + len(kept) + n_suffix, weights.shape[1]))  # (n_rows, n_outputs)
    n_tokens = sum(len(of_window) for of_window in vectors)
    # exact: the mean over tokens and all combinations of layers are linear in their vectors
    for of_window, window in zip(vectors, windows, strict=True):
        rows = _rows_of(window, kept, n_prefix, n_suffix)
        own = combine(of_window[:, None]).astype(np.float64) @ weights
        shares[rows] += (own - base) / n_tokens
    return pd.concat([_pieces(encoding, kept, text, tokenizer), pd.DataFrame(shares)], axis=1)


def _pieces(encoding: Any, kept: np.ndarray, text: str, tokenizer: TextTokenizer) -> pd.DataFrame:
    def special(ids: np.ndarray, at: int) -> list[tuple[str, int | None, int, int]]:
        return [(tokenizer.token(token_id), None, at, at) for token_id in ids]

    own = [(encoding.tokens[i], encoding.word_ids[i], *encoding.offsets[i]) for i in kept]
    rows = [*special(tokenizer.prefix, 0), *own, *special(tokenizer.suffix, len(text))]
    return pd.DataFrame(rows, columns=["token", "word", "start", "end"]).astype({"word": object})


def join_words(shares: pd.DataFrame, text: str) -> pd.DataFrame:
    """Sum the pieces of each word."""
    outputs = shares.columns[4:]
    number = (
        shares["word"]
        .map(lambda word: -1 if word is None or word != word else int(word))
        .to_numpy()
    )
    # pieces of one word share a group; tokens outside words do not
    group = np.cumsum(np.concatenate([[True], (number[1:] != number[:-1]) | (number[1:] < 0)]))
    joined = shares.groupby(group).agg(
        {"token": "first", "start": "min", "end": "max", **dict.fromkeys(outputs, "sum")}
    )
    spans = [
        trimmed(text, start, end) for start, end in zip(joined["start"], joined["end"], strict=True)
    ]
    joined["start"], joined["end"] = [start for start, _ in spans], [end for _, end in spans]
    words = [
        text[start:end] or token for (start, end), token in zip(spans, joined["token"], strict=True)
    ]
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

    pooling: Any
    normalize: bool
    missing: Missing
    on_invalid: OnInvalid
    _bert: Callable[[], FrozenBert]
    _changes_the_mean: Callable[[], bool]
    _combine_layers: CombineLayers
    _names: Callable[[tuple[str, ...]], list[str]]
    _warn_truncation: Callable[[TokenCounts], None]

    def transform_tokens(self, X: Iterable[Any], level: str = "token") -> pd.DataFrame:
        """Return one vector per token or word, instead of one per text.

        Uses the layers, ``combine``, ``max_length`` and ``truncation``, but not ``pooling`` and
        ``normalize``. A token in two windows (``truncation="window"``) gets the mean of both
        vectors.

        Parameters
        ----------
        X : iterable of str, or of lists of str
            Texts as in `fit`; with ``level="word"`` also texts already split into words.
        level : {"token", "word"}, default="token"
            ``"word"`` averages the word pieces of each word, without [CLS] and [SEP]. Words are
            those of the model's tokenizer (BERT's splits at punctuation: ``don't`` is three words),
            or the given ones.

        Returns
        -------
        DataFrame
            ``text`` (index label of the row), ``position``, then ``token`` and ``token_id`` for
            tokens or ``word`` and ``n_tokens`` for words, then one column per feature. Positions
            refer to the whole text, even if it was truncated.
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
        to_frame = token_frame if level == "token" else word_frame
        vectors = bert.embed_tokens(plan)
        return to_frame(plan, vectors, bert.tokenizer, self._combine_layers, labels, names)

    def token_shares(
        self, X: Iterable[str], weights: np.ndarray, base: np.ndarray | None = None
    ) -> list[pd.DataFrame]:
        """Split ``transform(X) @ weights`` among the tokens of each text, exactly.

        The mean of the token vectors and every combination of layers are linear, so a linear
        function of the features is the sum over tokens. Used by `pipeline.explain`.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.
        weights : ndarray of shape (n_features, n_outputs)
            Weights of the linear function.
        base : ndarray of shape (n_outputs,), optional
            Subtracted from the total, in equal parts from each token; for example ``mean_ @
            weights``, for shares relative to the mean text. None subtracts nothing.

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
        if self._bert().poolings != ("mean",) or self.normalize or self._changes_the_mean():
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
        bert = self._bert()
        tokenizer = bert.tokenizer
        frames: dict[str, pd.DataFrame] = {}
        distinct = list(dict.fromkeys(texts))
        counts = []
        for start in range(0, len(distinct), _TEXTS_AT_ONCE):
            plan = bert.plan(distinct[start : start + _TEXTS_AT_ONCE], pieces=True)
            counts.append(plan.counts)
            vectors = bert.embed_tokens(plan)
            ends = np.cumsum(plan.n_windows)
            assert plan.encodings is not None
            for text, encoding, stop, n_windows in zip(
                plan.texts, plan.encodings, ends, plan.n_windows, strict=True
            ):
                own = vectors[stop - n_windows : stop]
                options = (tokenizer, self._combine_layers, weights, 0.0 if base is None else base)
                frames[text] = share_out(own, encoding, text, *options)
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
            ([UNK]) and ``n_words`` (between blanks), one row per text, with the index of X.
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
