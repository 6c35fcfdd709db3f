"""Tango's interval: published values, a slow likelihood reference, and coverage."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from pipeline.evaluation.metrics import paired_difference


def answers(both, first, second, neither):
    """Make two models' answers from the counts of a 2 x 2 table."""
    pairs = np.array([(True, True), (True, False), (False, True), (False, False)])
    return np.repeat(pairs, [both, first, second, neither], axis=0).T


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Bentur et al. 2009, as in Fagerland, Lydersen and Laake 2014, table V
        ((1, 1, 7, 12), -0.517, -0.026),
        # no pair differs: z^2 / (n + z^2) to both sides, Newcombe 1998
        ((0, 0, 0, 10), -0.2775, 0.2775),
        ((36, 0, 0, 18), -0.0664, 0.0664),
    ],
)
def test_the_interval_is_the_published_one(table, low, high):
    found = paired_difference(*answers(*table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    assert found.difference == (table[1] - table[2]) / sum(table)


def slow_score(d, n, b, c):
    """Compute the score statistic by maximising the trinomial likelihood numerically."""

    def loss(p):  # p: share of pairs that only the second has right
        shares = np.array([p + d, p, 1 - 2 * p - d])
        counts = np.array([b, c, n - b - c])
        return -np.sum(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300)))

    low, high = max(0.0, -d), (1 - d) / 2
    p = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (b - c - n * d) / np.sqrt(n * (2 * p + d - d * d))


@pytest.mark.parametrize(
    "table", [(20, 12, 2, 16), (100, 40, 20, 0), (3, 9, 1, 2), (500, 80, 85, 120), (5, 0, 6, 9)]
)
def test_both_ends_are_where_the_score_test_of_the_likelihood_just_does_not_reject(table):
    found = paired_difference(*answers(*table))
    n, b, c = sum(table), table[1], table[2]
    assert slow_score(found.low, n, b, c) == pytest.approx(1.959964, abs=1e-3)
    assert slow_score(found.high, n, b, c) == pytest.approx(-1.959964, abs=1e-3)


def test_the_two_models_exchanged_turn_the_interval_around():
    first, second = answers(30, 9, 4, 17)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there == pytest.approx((-back.difference, -back.high, -back.low))


def test_texts_that_both_have_right_make_it_narrower_and_an_extreme_stays_within_one():
    wide, narrow = (paired_difference(*answers(both, 10, 4, 0)) for both in (10, 1000))
    assert narrow.high - narrow.low < wide.high - wide.low
    assert paired_difference(*answers(0, 10, 0, 0)).high == 1.0
    assert paired_difference(*answers(0, 0, 10, 0)).low == -1.0
    assert -1 <= paired_difference([True], [False]).low < 1


@pytest.mark.parametrize(
    "shares", [(0.6, 0.1, 0.1, 0.2), (0.7, 0.15, 0.05, 0.1), (0.9, 0.02, 0.02, 0.06)]
)
def test_it_holds_the_true_difference_about_95_times_of_100(shares):
    random, truth = np.random.default_rng(0), shares[1] - shares[2]
    found = [paired_difference(*answers(*random.multinomial(200, shares))) for _ in range(600)]
    held = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.925 < held < 0.98  # three standard errors are 0.027


@pytest.mark.parametrize(
    ("right", "other"), [([], []), ([True], [True, False]), ([[True]], [[True]])]
)
def test_answers_that_are_no_pairs_are_refused(right, other):
    with pytest.raises(ValueError, match="expected two flat ones of the same length above 0"):
        paired_difference(right, other)
