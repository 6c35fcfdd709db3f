"""How sure is a difference between two models that answered the same texts; knows numbers only. Used by comparison."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm


class PairedDifference(NamedTuple):
    """A difference of two accuracies on the same texts, and its interval."""

    difference: float
    low: float
    high: float


def paired_difference(right: np.ndarray, right_of_other: np.ndarray, *, level: float = 0.95) -> PairedDifference:
    """Return how much more often one model is right than another on the same texts, with Tango's score interval.

    Parameters
    ----------
    right, right_of_other : ndarray of shape (n_texts,), bool
        Whether each model is right on each text.
    level : float, default=0.95
        Of the interval.

    Returns
    -------
    PairedDifference
        ``difference`` (accuracy of the first minus accuracy of the second), ``low`` and ``high``.

    Raises
    ------
    ValueError
        For arrays of different lengths, or of none.

    Notes
    -----
    Only texts that one model has right and the other wrong tell the two apart: ``b`` texts for the first, ``c`` for the second.
    The interval holds the differences d that the score test does not reject, with the standard deviation that ``b + c`` would
    have if d were true [1]_. It keeps its level for few texts and for differences near 0 or 1, where
    ``d ± 1.96 * standard error`` does not [2]_; for d = 0 its test is McNemar's.

    References
    ----------
    .. [1] Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design", 1998,
       equations 5 to 8.
    .. [2] Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data", 1998.

    Examples
    --------
    >>> right = np.array([True] * 90 + [False] * 10)
    >>> other = np.array([True] * 78 + [False] * 20 + [True] * 2)
    >>> [round(float(value), 3) for value in paired_difference(right, other)]
    [0.1, 0.031, 0.182]
    """
    right, other = np.asarray(right, dtype=bool), np.asarray(right_of_other, dtype=bool)
    if right.shape != other.shape or right.ndim != 1 or not len(right):
        raise ValueError(
            f"Found arrays of shapes {right.shape} and {other.shape}; two flat ones of one length above 0 are needed."
        )
    n, b, c = len(right), int((right & ~other).sum()), int((other & ~right).sum())
    found = (b - c) / n
    z = float(norm.ppf((1 + level) / 2))
    high = _where_rejected(lambda d: _score(d, n, b, c) + z, found, 1.0)
    low = -_where_rejected(lambda d: _score(d, n, c, b) + z, -found, 1.0)  # the same, the two models exchanged
    return PairedDifference(found, low, high)


def _score(d: float, n: int, b: int, c: int) -> float:
    """Return Tango's statistic for the hypothesis that the difference is d."""
    p = 2 * n
    q = -b - c + (2 * n - b + c) * d
    only_other = (np.sqrt(max(q * q + 4 * p * c * d * (1 - d), 0.0)) - q) / (2 * p)  # likeliest share of c, d being true
    variance = n * (2 * only_other + d * (1 - d))
    return float((b - c - n * d) / np.sqrt(max(variance, 1e-300)))


def _where_rejected(score: Callable[[float], float], start: float, end: float) -> float:
    """Return where a falling function crosses zero between two differences; the end where it never does."""
    last = end - 1e-12
    return float(brentq(score, start, last, xtol=1e-10)) if start < last and score(last) < 0 else end
