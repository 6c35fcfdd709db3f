"""Token vectors -> one DataFrame row per token or word. Knows bert.embedding and pandas; used by vectorizer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.bert.embedding import Plan
from pipeline.bert.tokenizing import TextTokenizer

CombineLayers = Callable[[np.ndarray], np.ndarray]


def merge_windows(
    vectors: Sequence[np.ndarray], windows: Sequence[np.ndarray], n_prefix: int, n_suffix: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put the windows of one text together again: a token that stands in two windows gets the mean of its vectors.

    Parameters
    ----------
    vectors : sequence of ndarray of shape (n_tokens_of_window, n_layers, hidden_size)
        One per window, [CLS] and [SEP] included.
    windows : sequence of ndarray of int
        Which of the text's own tokens each window holds, ascending.
    n_prefix, n_suffix : int
        Special tokens before and after (one each for BERT).

    Returns
    -------
    kept : ndarray of shape (n_kept,), int64
        The text's own tokens that were not cut, ascending.
    merged : ndarray of shape (n_prefix + n_kept + n_suffix, n_layers, hidden_size)
        Their vectors, between those of the special tokens.
    """
    if len(windows) == 1:
        return windows[0], vectors[0]
    kept = np.unique(np.concatenate(windows))
    total = np.zeros((n_prefix + len(kept) + n_suffix, *vectors[0].shape[1:]), dtype=np.float64)
    count = np.zeros(len(total), dtype=np.int64)
    for vector, window in zip(vectors, windows, strict=True):
        inside = n_prefix + np.searchsorted(kept, window)
        after = np.arange(len(total) - n_suffix, len(total))
        rows = np.concatenate([np.arange(n_prefix), inside, after])
        total[rows] += vector
        count[rows] += 1
    return kept, (total / count[:, None, None]).astype(np.float32)


def token_frame(
    plan: Plan,
    vectors: Sequence[np.ndarray],
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    labels: Sequence[Any],
    names: list[str],
) -> pd.DataFrame:
    """One row per token of every text, [CLS] and [SEP] included.

    Parameters
    ----------
    plan : Plan
        Made with ``pieces=True``.
    vectors : sequence of ndarray of shape (n_tokens, n_layers, hidden_size)
        From `pipeline.bert.embedding.embed_tokens`.
    tokenizer : TextTokenizer
        The one of the plan.
    combine : callable
        Vectors of shape (n_rows, 1, n_layers, hidden_size) -> features of shape (n_rows, n_features).
    labels : sequence, length n_texts
        What to call each text in the column ``text``.
    names : list of str
        Names of the vector columns.

    Returns
    -------
    DataFrame
        Columns ``text``, ``position`` (in the whole token sequence, [CLS] is 0), ``token``, ``token_id``, then ``names``.
    """
    n_prefix, n_suffix = len(tokenizer.prefix), len(tokenizer.suffix)
    positions, ids, rows = [], [], []
    for kept, merged, encoding in _distinct_texts(plan, vectors, tokenizer):
        n_own = len(encoding.ids)
        positions.append(np.concatenate([np.arange(n_prefix), n_prefix + kept, n_prefix + n_own + np.arange(n_suffix)]))
        own = np.array(encoding.ids, dtype=np.int64)[kept]
        ids.append(np.concatenate([tokenizer.prefix, own, tokenizer.suffix]))
        rows.append(merged)
    columns = {
        "position": [positions[i] for i in plan.row_of],
        "token_id": [ids[i] for i in plan.row_of],
    }
    frame = _assemble(columns, [rows[i] for i in plan.row_of], combine, labels, names)
    token_of = {token_id: tokenizer.token(token_id) for token_id in frame["token_id"].unique()}
    frame.insert(2, "token", frame["token_id"].map(token_of).astype(str))
    return frame


def word_frame(
    plan: Plan,
    vectors: Sequence[np.ndarray],
    tokenizer: TextTokenizer,
    combine: CombineLayers,
    labels: Sequence[Any],
    names: list[str],
    texts: Sequence[str] | Sequence[tuple[str, ...]],
) -> pd.DataFrame:
    """One row per word of every text: the mean of its word pieces. Special tokens have no row.

    Parameters
    ----------
    plan, vectors, tokenizer, combine, labels, names
        As for `token_frame`.
    texts : sequence of str, or of tuples of str, length n_texts
        The texts; tuples where the user split them into words.

    Returns
    -------
    DataFrame
        Columns ``text``, ``position`` (number of the word), ``word``, ``n_tokens`` (its word pieces), then ``names``. A word
        of which truncation or the tokenizer left nothing has no row.
    """
    first_row = {int(distinct): row for row, distinct in reversed(list(enumerate(plan.row_of)))}
    positions, words, counts, rows = [], [], [], []
    for distinct, (kept, merged, encoding) in enumerate(_distinct_texts(plan, vectors, tokenizer)):
        own = merged[len(tokenizer.prefix) : len(tokenizer.prefix) + len(kept)]  # (n_kept, n_layers, hidden_size)
        word_of = np.array([-1 if w is None else w for w in encoding.word_ids], dtype=np.int64)[kept]
        numbers, start, n_pieces = np.unique(word_of, return_index=True, return_counts=True)
        start, n_pieces, numbers = start[numbers >= 0], n_pieces[numbers >= 0], numbers[numbers >= 0]
        means = [own[s : s + n].mean(axis=0) for s, n in zip(start, n_pieces, strict=True)]
        rows.append(np.stack(means) if means else np.zeros((0, *own.shape[1:]), dtype=np.float32))
        positions.append(numbers)
        counts.append(n_pieces)
        words.append([_word(texts[first_row[distinct]], encoding, int(number)) for number in numbers])
    columns: dict[str, list[Any]] = {
        "position": [positions[i] for i in plan.row_of],
        "word": [np.array(words[i], dtype=object) for i in plan.row_of],
        "n_tokens": [counts[i] for i in plan.row_of],
    }
    return _assemble(columns, [rows[i] for i in plan.row_of], combine, labels, names)


def _distinct_texts(plan: Plan, vectors: Sequence[np.ndarray], tokenizer: TextTokenizer) -> list[Any]:
    """Return (kept tokens, merged vectors, encoding) of each distinct text."""
    assert plan.encodings is not None, "plan(pieces=True) is needed"
    starts = np.searchsorted(plan.tokenized.owner, np.arange(len(plan.encodings)))
    merged = []
    for start, encoding in zip(starts, plan.encodings, strict=True):
        windows = tokenizer.windows(len(encoding.ids))
        own = vectors[start : start + len(windows)]
        merged.append((*merge_windows(own, windows, len(tokenizer.prefix), len(tokenizer.suffix)), encoding))
    return merged


def _word(text: str | tuple[str, ...], encoding: Any, number: int) -> str:
    if not isinstance(text, str):
        return text[number]
    start, end = encoding.word_to_chars(number)
    return text[start:end]


def _assemble(
    columns: dict[str, list[Any]], rows: list[np.ndarray], combine: CombineLayers, labels: Sequence[Any], names: list[str]
) -> pd.DataFrame:
    n_rows = [len(row) for row in rows]
    head: dict[str, Any] = {"text": pd.Series(list(labels)).repeat(n_rows).to_numpy()}
    for name, parts in columns.items():
        head[name] = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    if sum(n_rows) == 0:
        values = np.zeros((0, len(names)), dtype=np.float32)
    else:
        values = combine(np.concatenate(rows)[:, None])  # (n_rows, n_features)
    return pd.concat([pd.DataFrame(head), pd.DataFrame(values, columns=names)], axis=1)
