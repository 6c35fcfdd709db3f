"""What BertVectorizer tells of tokens and words: vectors, counts, spans, shares of a linear function. Base of vectorizer."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from pipeline.bert.embedding import truncation_report
from pipeline.bert.frozen import FrozenBert
from pipeline.bert.pooling import Pooling
from pipeline.texts import check_texts, check_words, take_columns
from pipeline.token_frames import token_frame, word_frame
from pipeline.token_shares import share_out, trimmed

_TEXTS_AT_ONCE = 64  # whose token vectors are held at a time


class TokenLevelMixin:
    """The methods of BertVectorizer that look below the text; a part of it, of no use alone."""

    # what the vectorizer brings
    pooling: Pooling | tuple[Pooling, ...]
    normalize: bool
    missing: Any
    on_invalid: Any
    _bert: Callable[[], FrozenBert]
    _names: Callable[[tuple[str, ...]], list[str]]
    _check_X: Callable[..., list[str]]
    _combine_layers: Callable[[np.ndarray], np.ndarray]
    _warn_truncation: Callable[[dict[str, Any]], None]

    def transform_tokens(self, X: Iterable[Any], level: str = "token") -> pd.DataFrame:
        """Return one vector per token or per word, instead of one per text.

        Layers, ``combine``, ``max_length`` and ``truncation`` apply; ``pooling`` and ``normalize`` do not. A token that stands
        in two windows (``truncation="window"``) gets the mean of its two vectors.

        Parameters
        ----------
        X : iterable of str, or of lists of str
            Texts as for `fit`; with ``level="word"`` also texts that are split into words already.
        level : {"token", "word"}, default="token"
            ``"word"`` averages the word pieces of each word, and leaves [CLS] and [SEP] out. Words are those of the model's own
            tokenizer (BERT's splits at punctuation: ``don't`` is three words), or the ones given.

        Returns
        -------
        DataFrame
            ``text`` (index label of the row), ``position`` and: for tokens ``token``, ``token_id``; for words ``word``,
            ``n_tokens``; then one column per feature. Positions count in the whole text, also where some of it was cut.
        """
        check_is_fitted(self)
        if level not in ("token", "word"):
            raise ValueError(f"level={level!r}; allowed are 'token' and 'word'.")
        table = take_columns(X)
        texts: list[str] | list[tuple[str, ...]] | None = check_words(table) if level == "word" else None
        if texts is None:
            texts = check_texts(table, missing=self.missing, on_invalid=self.on_invalid)
        bert = self._bert()
        made = bert.plan(texts, pieces=True)
        self._warn_truncation(made.truncation_report())
        vectors = bert.embed_tokens(made)
        labels = list(range(len(texts))) if table.index is None else list(table.index)
        names = [name.removeprefix("token_") for name in self._names(("token",))]
        if level == "token":
            return token_frame(made, vectors, bert.tokenizer, self._combine_layers, labels, names)
        return word_frame(made, vectors, bert.tokenizer, self._combine_layers, labels, names, texts)

    def token_shares(self, X: Iterable[str], weights: np.ndarray) -> list[pd.DataFrame]:
        """Split ``transform(X) @ weights`` of each text among its tokens; exact, and for ``pooling="mean"`` only.

        The mean of a text's token vectors, and every way to combine layers, is linear in them, so that what a linear function
        makes of the whole is the sum of what it makes of each token. `pipeline.explain` uses this.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As for `fit`.
        weights : ndarray of shape (n_features, n_outputs)
            Of the linear function.

        Returns
        -------
        list of DataFrame, length n_texts
            ``token``, ``word`` (its number, None for special tokens), ``start``, ``end``, and columns 0 to n_outputs - 1, whose
            sums are the row of ``transform(X) @ weights``.

        Raises
        ------
        ValueError
            For other poolings, ``normalize=True``, and weights of another shape.
        """
        check_is_fitted(self)
        if self._bert().poolings != ("mean",) or self.normalize:
            raise ValueError(
                f"pooling={self.pooling!r}, normalize={self.normalize}: only the plain mean is a sum over tokens. Use "
                "pooling='mean' and normalize=False."
            )
        weights = np.asarray(weights, dtype=np.float64)
        n_features = len(self._names(("mean",)))
        if weights.ndim != 2 or len(weights) != n_features:
            raise ValueError(f"weights has shape {weights.shape}; allowed is ({n_features}, n_outputs), a row per feature.")
        texts = self._check_X(X, reset=False)
        bert = self._bert()
        tokenizer = bert.tokenizer
        frames: dict[str, pd.DataFrame] = {}
        distinct = list(dict.fromkeys(texts))
        reports = []
        for start in range(0, len(distinct), _TEXTS_AT_ONCE):  # token vectors are large: of some texts at a time
            made = bert.plan(distinct[start : start + _TEXTS_AT_ONCE], pieces=True)
            reports.append((made.tokenized.n_tokens, made.tokenized.n_lost, made.n_windows))
            vectors = bert.embed_tokens(made)
            ends = np.cumsum(made.n_windows)
            assert made.encodings is not None
            for text, encoding, stop, n_windows in zip(made.texts, made.encodings, ends, made.n_windows, strict=True):
                own = vectors[stop - n_windows : stop]
                frames[text] = share_out(own, encoding, text, tokenizer, self._combine_layers, weights)
        if reports:
            self._warn_truncation(truncation_report(*(np.concatenate(parts) for parts in zip(*reports, strict=True))))
        return [frames[text].copy() for text in texts]

    def count_tokens(self, X: Iterable[str]) -> pd.DataFrame:
        """Count the tokens of each text and how many of them truncation would cut, without encoding anything.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As for `fit`.

        Returns
        -------
        DataFrame
            ``n_tokens`` (of the whole text, [CLS] and [SEP] included) and ``n_lost``, one row per text, index kept.
        """
        check_is_fitted(self)
        table = take_columns(X, on_invalid=self.on_invalid)
        tokenized = self._bert().tokenizer(check_texts(table, missing=self.missing, on_invalid=self.on_invalid))
        return pd.DataFrame({"n_tokens": tokenized.n_tokens, "n_lost": tokenized.n_lost}, index=table.index)

    def word_spans(self, X: Iterable[str]) -> list[list[tuple[int, int]]]:
        """Find the words of each text, as the model's own tokenizer sees them, without encoding anything.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As for `fit`.

        Returns
        -------
        list of list of (int, int), length n_texts
            Start and end of each word, in characters; also of words that truncation would cut.
        """
        check_is_fitted(self)
        texts = self._check_X(X, reset=False)
        encodings, _ = self._bert().tokenizer.with_pieces(texts)
        spans = []
        for text, encoding in zip(texts, encodings, strict=True):
            of_text: dict[int, tuple[int, int]] = {}
            for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
                if word is not None:
                    before = of_text.get(word, (start, end))
                    of_text[word] = (min(before[0], start), max(before[1], end))
            spans.append([trimmed(text, *span) for span in of_text.values()])
        return spans
