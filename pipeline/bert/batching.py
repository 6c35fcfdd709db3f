"""Token ids -> batches of equal length under a token budget. Knows numbers only; used by embedding."""

from collections.abc import Sequence

import numpy as np


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
