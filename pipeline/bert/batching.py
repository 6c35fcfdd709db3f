"""Token ids -> batches under a token budget, of equal length or packed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Run(NamedTuple):
    """Neighbouring texts of equal length in a batch."""

    first_text: int
    first_token: int
    n_texts: int
    length: int  # tokens of each text

    @property
    def tokens(self) -> slice:
        """The rows of its tokens in the batch."""
        return slice(self.first_token, self.first_token + self.n_texts * self.length)


class TokenBatch:
    """The tokens of several texts, one after the other, without padding."""

    def __init__(self, sequences: Sequence[np.ndarray], skip: int = 0) -> None:
        self.skip = skip  # first tokens of each text that no pooling counts
        # all at once, not in cached properties: their lock, one for the whole class, may be held
        # for ever in a forked child
        self.input_ids = np.concatenate(sequences)  # (n_tokens,), int64
        self.lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)  # (n_texts,)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])  # (n_texts + 1,)
        first_tokens = np.repeat(self.starts[:-1], self.lengths)
        self.position_ids = np.arange(len(self.input_ids)) - first_tokens  # (n_tokens,)
        edges = [0, *(np.flatnonzero(np.diff(self.lengths)) + 1).tolist(), len(self.lengths)]
        self.runs = [
            Run(i, int(self.starts[i]), j - i, int(self.lengths[i])) for i, j in pairwise(edges)
        ]


# Both functions below return positions in ``lengths``, each once, longest first, so that a lack of
# memory shows at once. A sequence longer than the budget is a batch of its own.


def batch_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sequences of exactly the same length: no padding."""
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    for run in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if len(run):
            size = max(1, int(batch_tokens // max(1, lengths[run[0]])))
            batches.extend(run[start : start + size] for start in range(0, len(run), size))
    return batches


def pack_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sequences of similar length into batches as full as possible."""
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + batch_tokens, side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches
