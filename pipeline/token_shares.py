"""How much each token adds to a linear function of mean-pooled features: exact, by distributing the sum. Used by vectorizer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.bert.tokenizing import TextTokenizer

CombineLayers = Callable[[np.ndarray], np.ndarray]


def share_out(
    vectors: Sequence[np.ndarray],
    encoding: Any,
    text: str,
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    weights: np.ndarray,
) -> pd.DataFrame:
    """Split one text's ``features @ weights`` into one row per token.

    Mean pooling over the n tokens of all windows, and every combination of layers here, is linear in the token vectors h_t, so
    ``mean_t(combine(h_t)) @ W = sum_t(combine(h_t) @ W / n)``: the rows add up to the whole.

    Parameters
    ----------
    vectors : sequence of ndarray of shape (n_tokens_of_window, n_layers, hidden_size)
        One per window of the text, [CLS] and [SEP] included.
    encoding : tokenizers.Encoding
        Of the whole text, without special tokens.
    text : str
        The text.
    tokenizer : TextTokenizer
        That cut it into windows.
    combine : callable
        Vectors of shape (n_rows, 1, n_layers, hidden_size) -> features of shape (n_rows, n_features).
    weights : ndarray of shape (n_features, n_outputs), float64

    Returns
    -------
    DataFrame
        ``token``, ``word`` (the word of the text that the token is a piece of; None for special tokens), ``start``, ``end``
        (its characters; both 0 for [CLS], both the length of the text for [SEP]), then a column per output. Tokens that
        truncation cut have no row; one that stands in two windows has one.
    """
    windows = tokenizer.windows(len(encoding.ids))
    n_prefix, n_suffix = len(tokenizer.prefix), len(tokenizer.suffix)
    kept = np.unique(np.concatenate(windows))
    shares = np.zeros((n_prefix + len(kept) + n_suffix, weights.shape[1]))  # (n_rows, n_outputs)
    n_tokens = sum(len(of_window) for of_window in vectors)
    for of_window, window in zip(vectors, windows, strict=True):
        own = n_prefix + np.searchsorted(kept, window)
        rows = np.concatenate([np.arange(n_prefix), own, np.arange(len(shares) - n_suffix, len(shares))])
        shares[rows] += combine(of_window[:, None]).astype(np.float64) @ weights / n_tokens
    return pd.concat([_pieces(encoding, kept, text, tokenizer), pd.DataFrame(shares)], axis=1)


def _pieces(encoding: Any, kept: np.ndarray, text: str, tokenizer: TextTokenizer) -> pd.DataFrame:
    def special(ids: np.ndarray, at: int) -> list[tuple[str, int | None, int, int]]:
        return [(tokenizer.token(token_id), None, at, at) for token_id in ids]

    own = [(encoding.tokens[i], encoding.word_ids[i], *encoding.offsets[i]) for i in kept]
    rows = [*special(tokenizer.prefix, 0), *own, *special(tokenizer.suffix, len(text))]
    return pd.DataFrame(rows, columns=["token", "word", "start", "end"]).astype({"word": object})


def join_words(shares: pd.DataFrame, text: str) -> pd.DataFrame:
    """Add up the pieces of each word; special tokens, and pieces without a word, stay rows of their own.

    Parameters
    ----------
    shares : DataFrame
        From `share_out`.
    text : str
        The same.

    Returns
    -------
    DataFrame
        ``word``, ``start``, ``end``, then a column per output.
    """
    outputs = shares.columns[4:]
    number = shares["word"].map(lambda word: -1 if word is None or word != word else int(word)).to_numpy()
    # neighbours of one word share a group; what has no word never does
    group = np.cumsum(np.concatenate([[True], (number[1:] != number[:-1]) | (number[1:] < 0)]))
    joined = shares.groupby(group).agg({"token": "first", "start": "min", "end": "max", **dict.fromkeys(outputs, "sum")})
    spans = [trimmed(text, start, end) for start, end in zip(joined["start"], joined["end"], strict=True)]
    joined["start"], joined["end"] = [start for start, _ in spans], [end for _, end in spans]
    words = [text[start:end] or token for (start, end), token in zip(spans, joined["token"], strict=True)]
    joined.insert(0, "word", words)
    return joined.drop(columns="token").reset_index(drop=True)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the blanks around a span: byte-level tokenizers count the one before a word as its own."""
    word = text[start:end]
    if not word.strip():
        return start, end
    return start + len(word) - len(word.lstrip()), end - len(word) + len(word.rstrip())
