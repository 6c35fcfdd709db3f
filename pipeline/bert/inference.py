"""Batches through an encoder without waiting in between; half the budget where memory runs out. Used by embedding."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.bert.batching import TokenBatch
from pipeline.bert.encoder import Encoder

_IN_FLIGHT = 4  # results on their way from an accelerator while it computes the next ones

Compute = Callable[[TokenBatch, Any], torch.Tensor]


def run_batches(
    encoder: Encoder, input_ids: Sequence[np.ndarray], batches: Sequence[np.ndarray], compute: Compute
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run batches and bring the results back.

    Parameters
    ----------
    encoder : Encoder
        Whose workspace and device are used.
    input_ids : sequence of ndarray of shape (n_tokens,), int64
        All sequences.
    batches : sequence of ndarray of int
        Positions in ``input_ids``.
    compute : callable
        ``compute(batch, workspace)`` gives a tensor whose first axis goes over texts or tokens.

    Yields
    ------
    positions : ndarray of shape (n_in_batch,), int64
        A batch, or a part of one where the whole did not fit into the accelerator's memory.
    values : ndarray, float32
        What ``compute`` gave for it.

    Raises
    ------
    MemoryError
        Where a single text does not fit.
    """
    workspace = encoder.workspace()
    waiting = deque(batches)
    in_flight: deque[tuple[np.ndarray, _Copy]] = deque()
    budget: int | None = None
    while waiting:
        positions = waiting.popleft()
        n_tokens = sum(len(input_ids[i]) for i in positions)
        if budget is not None and n_tokens > budget and len(positions) > 1:
            waiting.extendleft(reversed(_halve(positions)))
            continue
        try:
            values = compute(TokenBatch.of([input_ids[i] for i in positions]), workspace)
        except torch.OutOfMemoryError as error:
            if len(positions) == 1:
                raise MemoryError(
                    f"A single text of {n_tokens} tokens does not fit into the memory of {encoder.device}. Use device='cpu', or "
                    "a smaller max_length with truncation='window'."
                ) from error
            budget = n_tokens // 2
            workspace = encoder.workspace()  # the old buffers may be what is too large
            torch.cuda.empty_cache()
            waiting.appendleft(positions)
            continue
        in_flight.append((positions, _Copy(values)))
        if len(in_flight) > (_IN_FLIGHT if encoder.device.type == "cuda" else 0):
            done, copy = in_flight.popleft()
            yield done, copy.wait()
    for done, copy in in_flight:
        yield done, copy.wait()


def _halve(positions: np.ndarray) -> list[np.ndarray]:
    return [positions[: len(positions) // 2], positions[len(positions) // 2 :]]


class _Copy:
    """A result on its way to the host; from CUDA it goes into pinned memory while the next batch is computed."""

    def __init__(self, values: torch.Tensor) -> None:
        self._event = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(values.device))  # by itself it would ask the first GPU
        else:
            self._values = values.cpu()

    def wait(self) -> np.ndarray:
        if self._event is not None:
            self._event.synchronize()
        array: np.ndarray = self._values.numpy()
        return array
