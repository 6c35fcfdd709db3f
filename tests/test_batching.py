"""batch_by_length: every sequence once, no padding, within the budget, longest first."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bert.batching import batch_by_length

lengths = st.lists(st.integers(0, 40), max_size=60)
budgets = st.integers(1, 200)
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(lengths, budgets)
def test_every_position_is_in_exactly_one_batch(lengths, budget):
    batches = batch_by_length(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) > 0 for batch in batches)


@unhurried
@given(lengths, budgets)
def test_a_batch_holds_one_length_and_keeps_the_budget_unless_it_is_a_single_sequence(lengths, budget):
    for batch in batch_by_length(lengths, budget):
        of_batch = [lengths[i] for i in batch]
        assert len(set(of_batch)) == 1
        assert sum(of_batch) <= budget or len(batch) == 1


@unhurried
@given(lengths, budgets)
def test_the_longest_come_first_and_equal_lengths_keep_their_order(lengths, budget):
    order = [int(i) for batch in batch_by_length(lengths, budget) for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@unhurried
@given(st.lists(st.integers(1, 40), max_size=60), budgets)
def test_no_two_batches_of_a_length_would_fit_into_one(lengths, budget):
    for length in set(lengths):
        sizes = [len(batch) for batch in batch_by_length(lengths, budget) if lengths[batch[0]] == length]
        most = max(1, budget // length)
        assert sizes == [most] * (len(sizes) - 1) + [sizes[-1]]
        assert sizes[-1] <= most


@pytest.mark.parametrize("empty", [[], (), np.zeros(0, dtype=np.int64)])
def test_nothing_makes_no_batch(empty):
    assert batch_by_length(empty, 100) == []


def test_a_sequence_over_the_budget_is_a_batch_of_its_own():
    batches = batch_by_length([9, 3, 9, 3], 8)
    assert [batch.tolist() for batch in batches] == [[0], [2], [1, 3]]
    assert all(batch.dtype == np.int64 for batch in batches)
