"""Token ids -> batches under a token budget, of equal length or packed. Knows numbers only; used all over the bert room."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np


class Run(NamedTuple):
    """Neighbouring texts of equal length in a batch: ``n_texts`` texts of ``length`` tokens."""

    first_text: int
    first_token: int
    n_texts: int
    length: int


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of several texts, one after the other, without padding.

    Attributes
    ----------
    input_ids : ndarray of shape (n_tokens,), int64
        [CLS] of the first text to [SEP] of the last one.
    lengths : ndarray of shape (n_texts,), int64
        Tokens per text.
    starts : ndarray of shape (n_texts + 1,), int64
        First token of each text, and the end of the last one.
    position_ids : ndarray of shape (n_tokens,), int64
        Position of each token in its text, from 0.
    runs : list of Run
        The batch as runs of equal length.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray = field(init=False)
    position_ids: np.ndarray = field(init=False)
    runs: list[Run] = field(init=False)

    def __post_init__(self) -> None:
        # here and not in cached properties: theirs is one lock for the whole class, which a forked child may find held for ever
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        edges = [0, *(np.flatnonzero(np.diff(self.lengths)) + 1).tolist(), len(self.lengths)]
        runs = [
            Run(i, int(starts[i]), j - i, int(self.lengths[i])) for i, j in pairwise(edges) if j > i
        ]
        object.__setattr__(self, "starts", starts)
        object.__setattr__(
            self,
            "position_ids",
            np.arange(len(self.input_ids)) - np.repeat(starts[:-1], self.lengths),
        )
        object.__setattr__(self, "runs", runs)

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray]) -> Self:
        """Put sequences one after the other; few runs come of them where they are sorted by length."""
        return cls(
            np.concatenate(sequences), np.array([len(ids) for ids in sequences], dtype=np.int64)
        )


def batch_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sequences of exactly the same length, so that no batch holds a single padding token.

    Parameters
    ----------
    lengths : sequence of int, length n_sequences
        Tokens per sequence.
    batch_tokens : int
        Most tokens in one batch; a sequence longer than that is a batch of its own.

    Returns
    -------
    list of ndarray of shape (n_in_batch,), int64
        Positions in ``lengths``; every position once. Longest first, so that a lack of memory shows at once.

    Examples
    --------
    >>> batch_by_length([3, 5, 3, 3], batch_tokens=6)
    [array([1]), array([0, 2]), array([3])]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    # positions where the length changes in the sorted order cut it into runs of equal length
    for run in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if len(run):
            size = max(1, int(batch_tokens // max(1, lengths[run[0]])))
            batches.extend(run[start : start + size] for start in range(0, len(run), size))
    return batches


def pack_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sequences of similar length into batches that are as full as they can be.

    Parameters
    ----------
    lengths : sequence of int, length n_sequences
        Tokens per sequence.
    batch_tokens : int
        Most tokens in one batch; a sequence longer than that is a batch of its own.

    Returns
    -------
    list of ndarray of shape (n_in_batch,), int64
        Positions in ``lengths``; every position once, longest first, within a batch too.

    Examples
    --------
    >>> pack_by_length([3, 5, 3, 3], batch_tokens=9)
    [array([1, 0]), array([2, 3])]
    """
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
