"""Medians with intervals that assume no distribution, and paired log-ratios: what seeds are evidence of.

Means of norms are carried by rare draws (Hanin & Rolnick 2018, arXiv 1803.01719): everything here is a median.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Median(NamedTuple):
    """A median with its confidence interval.

    Args:
        value: nan of nothing.
        low, high: -inf and inf where there are too few values for an interval.
        num_values: that were not nan.
    """

    value: float
    low: float
    high: float
    num_values: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether there were enough values for one.

        >>> median_interval([1.0, 2.0, 3.0]).has_interval, median_interval(range(6)).has_interval
        (False, True)
        """
        return self.num_values >= least_values()


class PairedRatio(NamedTuple):
    """The median of a ratio over pairs, with its interval: of the log-ratio, so that a over b and b over a say the same.

    Args:
        value: median ratio; nan of nothing.
        low, high: its interval; 0 and inf where there are too few pairs.
        num_higher, num_lower: pairs with a ratio above and below one.
        num_pairs: pairs that have a ratio.
        num_undefined: pairs that have none: a value is not known or not finite, or both are zero.
    """

    value: float
    low: float
    high: float
    num_higher: int
    num_lower: int
    num_pairs: int
    num_undefined: int

    @property
    def has_interval(self) -> bool:
        """Whether there were enough pairs for one.

        >>> paired_ratio([2.0] * 5, [1.0] * 5).has_interval
        False
        """
        return self.num_pairs >= least_values()

    @property
    def differs_from_one(self) -> bool:
        """Whether the interval leaves one out.

        >>> paired_ratio([2.0] * 6, [1.0] * 6).differs_from_one, paired_ratio([2.0] * 5, [1.0] * 5).differs_from_one
        (True, False)
        """
        return self.has_interval and not self.low <= 1.0 <= self.high

    @property
    def sign_share(self) -> float:
        """Share of the pairs on the median's side of one; nan without pairs.

        >>> paired_ratio([2.0, 2.0, 2.0, 0.5], [1.0] * 4).sign_share
        0.75
        """
        if not self.num_pairs:
            return math.nan
        return (self.num_lower if self.value < 1.0 else self.num_higher) / self.num_pairs


def least_values(confidence: float = CONFIDENCE) -> int:
    """The fewest values whose range is an interval of the median: 2 (1/2)^n must not exceed what is left of the confidence.

    >>> least_values(), least_values(0.99)
    (6, 8)
    """
    return math.ceil(1.0 + math.log2(1.0 / (1.0 - confidence)) - 1e-9)


def rank_of_interval(num_values: int, confidence: float = CONFIDENCE) -> int:
    """The rank k, from 1, for which the k-th smallest and the k-th largest value enclose the median; 0 for too few values.

    How many values lie below the true median is binomial(n, 1/2), whatever their distribution: k is the largest one with
    2 P(B < k) <= 1 - confidence (Conover 1999, Practical Nonparametric Statistics, section 3.2). Exact, so at least the
    confidence that was asked for.

    >>> rank_of_interval(5), rank_of_interval(6), rank_of_interval(100)
    (0, 1, 40)
    """
    ranks = np.arange(num_values // 2 + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(num_values - ranks[:-1]) - np.log(ranks[1:]))])
    below = np.cumsum(np.exp(log_choose - num_values * math.log(2.0)))  # P(B <= rank)
    return int(np.searchsorted(below, 0.5 * (1.0 - confidence) * (1.0 + 1e-12), side="right"))


def median_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Median:
    """The median and a confidence interval of it that no distribution is assumed for; nan is left out.

    Infinite values have their place in the order, as in the logarithm of a gradient that is exactly zero. With fewer than six
    values there is no interval of 95 %: it is infinite.

    >>> median_interval(range(1, 101))
    Median(value=50.5, low=40.0, high=61.0, num_values=100)
    >>> median_interval([1.0, 2.0, 4.0])
    Median(value=2.0, low=-inf, high=inf, num_values=3)
    """
    ordered = np.sort([float(value) for value in values if not math.isnan(value)])
    count = len(ordered)
    if not count:
        return Median(math.nan, -math.inf, math.inf, 0)
    rank = rank_of_interval(count, confidence)
    low, high = (ordered[rank - 1], ordered[-rank]) if rank else (-math.inf, math.inf)
    return Median(_middle(ordered), float(low), float(high), count)


def paired_ratio(numerator: Any, denominator: Any, confidence: float = CONFIDENCE) -> PairedRatio:
    """The median of numerator over denominator, pair by pair, with its interval.

    Args:
        numerator: values from 0. A zero makes a ratio of 0 or inf, which has its place in the order; two zeros, and what is
            not finite, make none.
        denominator: likewise, paired by position.
        confidence: of the interval.

    >>> paired_ratio([2.0, 4.0, 8.0], [1.0, 1.0, 1.0])[:3]
    (4.0, 0.0, inf)
    >>> ratio = paired_ratio(range(10, 30), [10.0] * 20)
    >>> round(ratio.low, 2), round(ratio.high, 2), ratio.num_higher, ratio.num_lower
    (1.5, 2.4, 19, 0)
    """
    decades = log_ratios(numerator, denominator)
    middle = median_interval(decades, confidence)
    known = decades[~np.isnan(decades)]
    value, low, high = (_power(each) for each in middle[:3])
    higher, lower = int((known > 0.0).sum()), int((known < 0.0).sum())
    return PairedRatio(value, low, high, higher, lower, len(known), len(decades) - len(known))


def log_ratios(numerator: Any, denominator: Any) -> np.ndarray:
    """log10 of numerator over denominator, pair by pair, in float64.

    inf and -inf where one of two is zero; nan where both are, or where one is not finite.

    >>> log_ratios([100.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]).tolist()
    [2.0, -inf, inf, nan]
    """
    above, below = (_finite(values) for values in (numerator, denominator))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(above) - np.log10(below)


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _middle(ordered: np.ndarray) -> float:
    """The mean of the two middle values, or the middle one; nan between -inf and inf."""
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if low == high:
        return float(low)
    return math.nan if math.isinf(low) and math.isinf(high) else float(0.5 * low + 0.5 * high)


def _power(decades: float) -> float:
    try:
        return 10.0**decades
    except OverflowError:
        return math.inf
