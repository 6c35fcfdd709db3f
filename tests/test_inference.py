"""Batches come back in order, none is lost when memory runs out, and what does not fit at all is said."""

import numpy as np
import pytest
import torch

from pipeline.bert.embedding import run_batches

RNG = np.random.default_rng(0)
SEQUENCES = [RNG.integers(1, 100, size=n) for n in (12, 11, 9, 9, 9, 5, 4, 3, 1)]
BATCHES = [np.array([0, 1, 2]), np.array([3, 4, 5, 6]), np.array([7, 8])]


class SmallMemory:
    """An encoder whose memory holds ``room`` tokens; it sums the ids of each text."""

    device = torch.device("cpu")

    def __init__(self, room: int) -> None:
        self.room = room
        self.seen: list[int] = []
        self.workspaces = 0

    def workspace(self):
        self.workspaces += 1
        return self.workspaces

    def compute(self, batch, workspace):
        self.seen.append(len(batch.input_ids))
        if len(batch.input_ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return torch.tensor(
            [float(ids.sum()) for ids in np.split(batch.input_ids, batch.starts[1:-1])]
        )


def results(encoder):
    found = np.full(len(SEQUENCES), np.nan)
    order = []
    for positions, values in run_batches(encoder, SEQUENCES, BATCHES, encoder.compute):
        found[positions] = values
        order.extend(positions.tolist())
    assert order == list(range(len(SEQUENCES)))  # longest first, each once
    return found


EXPECTED = np.array([ids.sum() for ids in SEQUENCES])


def test_every_batch_is_run_once_with_one_workspace():
    encoder = SmallMemory(room=1000)
    assert np.array_equal(results(encoder), EXPECTED)
    assert encoder.seen == [32, 27, 4]
    assert encoder.workspaces == 1


@pytest.mark.parametrize("room", [12, 13, 20, 25, 31])
def test_where_memory_runs_out_the_budget_is_halved_and_nothing_is_lost(room):
    encoder = SmallMemory(room)
    assert np.array_equal(results(encoder), EXPECTED)
    assert encoder.workspaces > 1


def test_the_smaller_budget_is_kept_for_the_batches_that_follow():
    encoder = SmallMemory(room=24)
    assert np.array_equal(results(encoder), EXPECTED)
    # 32 tokens fail, so from then on 16: no later batch fails again
    assert [n for n in encoder.seen if n > 24] == [32]
    assert max(encoder.seen[1:]) <= 20


def test_a_text_that_does_not_fit_alone_is_an_error_with_a_cure():
    with pytest.raises(
        MemoryError,
        match=r"text of 12 tokens does not fit into the memory of cpu\. Use device='cpu', or a",
    ):
        results(SmallMemory(room=11))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(batch, workspace):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(run_batches(SmallMemory(1000), SEQUENCES, BATCHES, broken))


def test_inference_mode_does_not_leak_to_the_caller_between_batches(tiny_bert):
    from pipeline.bert.encoder import load_encoder
    from pipeline.checkpoints.checkpoint import resolve

    encoder = load_encoder(resolve(tiny_bert), 1)
    compute = lambda batch, workspace: encoder.pooled(batch, ("mean",), (1,), workspace)  # noqa: E731
    for _ in run_batches(encoder, SEQUENCES, BATCHES, compute):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
