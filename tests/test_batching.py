"""Batches hold every sequence once, within the budget, longest first."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bert.batching import TokenBatch, batch_by_length, pack_by_length

lengths = st.lists(st.integers(0, 40), max_size=60)
budgets = st.integers(1, 200)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


both = pytest.mark.parametrize("group", [batch_by_length, pack_by_length])


@both
@unhurried
@given(lengths=lengths, budget=budgets)
def test_every_position_is_in_exactly_one_batch(group, lengths, budget):
    batches = group(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) > 0 for batch in batches)


@unhurried
@given(lengths, budgets)
def test_a_batch_holds_one_length_and_keeps_the_budget_unless_it_is_a_single_sequence(
    lengths, budget
):
    for batch in batch_by_length(lengths, budget):
        of_batch = [lengths[i] for i in batch]
        assert len(set(of_batch)) == 1
        assert sum(of_batch) <= budget or len(batch) == 1


@both
@unhurried
@given(lengths=lengths, budget=budgets)
def test_the_longest_come_first_and_equal_lengths_keep_their_order(group, lengths, budget):
    order = [int(i) for batch in group(lengths, budget) for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@unhurried
@given(st.lists(st.integers(1, 40), max_size=60), budgets)
def test_no_two_batches_of_a_length_would_fit_into_one(lengths, budget):
    for length in set(lengths):
        sizes = [
            len(batch) for batch in batch_by_length(lengths, budget) if lengths[batch[0]] == length
        ]
        most = max(1, budget // length)
        assert sizes == [most] * (len(sizes) - 1) + [sizes[-1]]
        assert sizes[-1] <= most


@unhurried
@given(st.lists(st.integers(1, 40), max_size=60), budgets)
def test_a_packed_batch_keeps_the_budget_and_has_no_room_for_the_next_text(lengths, budget):
    batches = pack_by_length(lengths, budget)
    sizes = [sum(lengths[i] for i in batch) for batch in batches]
    assert all(
        size <= budget or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True)
    )
    for size, following in zip(sizes[:-1], batches[1:], strict=True):
        assert size + lengths[following[0]] > budget


@both
@pytest.mark.parametrize("empty", [[], (), np.zeros(0, dtype=np.int64)])
def test_nothing_makes_no_batch(group, empty):
    assert group(empty, 100) == []


def test_a_sequence_over_the_budget_is_a_batch_of_its_own():
    batches = batch_by_length([9, 3, 9, 3], 8)
    assert [batch.tolist() for batch in batches] == [[0], [2], [1, 3]]
    assert all(batch.dtype == np.int64 for batch in batches)


@unhurried
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_a_packed_batch_knows_starts_positions_and_runs(lengths):
    sequences = [np.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths)]
    batch = TokenBatch(sequences)
    for start, sequence in zip(batch.starts[:-1], sequences, strict=True):
        assert batch.input_ids[start : start + len(sequence)].tolist() == sequence.tolist()
        assert batch.position_ids[start : start + len(sequence)].tolist() == list(
            range(len(sequence))
        )
    assert batch.starts[-1] == len(batch.input_ids)
    in_runs = [run.length for run in batch.runs for _ in range(run.n_texts)]
    assert in_runs == lengths
    for run in batch.runs:
        assert run.first_token == batch.starts[run.first_text]
    assert all(a.length != b.length for a, b in zip(batch.runs[:-1], batch.runs[1:], strict=True))
