"""Batches hold every sequence once, within the budget, longest first."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bert.pooling import batch_by_length, pack_by_length

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


@both
@unhurried
@given(lengths=lengths, budget=budgets)
def test_the_longest_come_first_and_equal_lengths_keep_their_order(group, lengths, budget):
    order = [int(i) for batch in group(lengths, budget) for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


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
