"""Oracles: the binomial distribution in whole numbers, and simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.lab.paired_statistics import (
    least_values,
    log_ratios,
    median_interval,
    paired_ratio,
    rank_of_interval,
)


def exact_rank(num_values: int, left_out: Fraction) -> int:
    """The largest k with 2 P(B < k) <= 1 - confidence, in rational numbers."""
    below, rank = Fraction(0), 0
    while rank <= num_values // 2:
        below += Fraction(math.comb(num_values, rank), 2**num_values)
        if 2 * below > left_out:
            return rank
        rank += 1
    return rank


@pytest.mark.parametrize("left_out", [Fraction(1, 20), Fraction(1, 100), Fraction(1, 4)])
def test_the_ranks_are_those_of_the_exact_binomial_distribution(left_out):
    for num_values in [*range(130), 500, 1001]:
        assert rank_of_interval(num_values, 1.0 - float(left_out)) == exact_rank(num_values, left_out)


def test_the_ranks_of_many_values_approach_the_normal_distribution():
    num_values = 1_000_000
    assert rank_of_interval(num_values) == pytest.approx(num_values / 2 - 1.959964 * math.sqrt(num_values) / 2, abs=2)


def test_fewer_than_six_values_have_no_interval_of_95_percent():
    for num_values in range(6):
        found = median_interval(np.arange(num_values))
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert not found.has_interval
    assert median_interval(range(6))[1:3] == (0.0, 5.0)
    assert least_values() == 6


@pytest.mark.parametrize("num_values", [6, 7, 20, 64, 200])
@pytest.mark.parametrize("draw", ["exponential", "standard_cauchy", "lognormal"])
def test_the_interval_holds_the_true_median_at_least_as_often_as_it_says(num_values, draw):
    truth = {"exponential": math.log(2.0), "standard_cauchy": 0.0, "lognormal": 1.0}[draw]
    samples = getattr(np.random.default_rng(num_values), draw)(size=(2000, num_values))
    found = np.array([median_interval(sample)[:3] for sample in samples])
    covered = np.mean((found[:, 1] <= truth) & (truth <= found[:, 2]))
    # The exact coverage of the ranks, and four standard deviations of 2000 draws around it.
    rank = rank_of_interval(num_values)
    exact = 1.0 - 2.0 * sum(math.comb(num_values, k) for k in range(rank)) / 2**num_values
    assert exact >= 0.95
    assert abs(covered - exact) < 4.0 * math.sqrt(exact * (1.0 - exact) / 2000)


def test_infinite_values_have_their_place_in_the_order_and_nan_has_none():
    found = median_interval([-math.inf] * 3 + [0.0, 1.0, 2.0, 3.0, math.nan])
    assert found == (0.0, -math.inf, 3.0, 7)
    assert math.isnan(median_interval([-math.inf, math.inf]).value)
    assert math.isnan(median_interval([]).value)


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=40), st.data())
def test_a_ratio_the_other_way_round_is_its_inverse(values, data):
    others = data.draw(st.lists(st.floats(1e-30, 1e30), min_size=len(values), max_size=len(values)))
    there, back = paired_ratio(values, others), paired_ratio(others, values)
    assert math.log(there.value) == pytest.approx(-math.log(back.value), abs=1e-9)
    assert (there.num_higher, there.num_lower) == (back.num_lower, back.num_higher)
    if there.has_interval:
        assert math.log(there.low) == pytest.approx(-math.log(back.high), abs=1e-9)


def test_pairing_finds_what_the_medians_alone_cannot_tell():
    generator = np.random.default_rng(0)
    seeds = generator.lognormal(0.0, 3.0, size=64)  # what differs between seeds is far larger than the effect
    ratio = paired_ratio(1.2 * seeds * generator.lognormal(0.0, 0.05, size=64), seeds)
    assert ratio.differs_from_one
    assert ratio.low < 1.2 < ratio.high
    alone = paired_ratio(1.2 * seeds, generator.permutation(seeds))
    assert not alone.differs_from_one


def test_five_like_pairs_are_no_evidence():
    ratio = paired_ratio([2.0] * 5, [1.0] * 5)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 0.0, math.inf)
    assert not ratio.differs_from_one


def test_the_interval_of_no_effect_leaves_one_out_in_at_most_5_of_100_comparisons():
    generator = np.random.default_rng(1)
    wrong = [
        paired_ratio(generator.lognormal(size=30), generator.lognormal(size=30)).differs_from_one for _ in range(2000)
    ]
    assert np.mean(wrong) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_zeros_and_what_is_not_finite_are_counted():
    ratio = paired_ratio([0.0, 1.0, 0.0, math.nan, math.inf, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    assert (ratio.num_pairs, ratio.num_undefined) == (4, 3)
    assert (ratio.num_higher, ratio.num_lower) == (1, 1)
    assert ratio.value == 1.0


def test_log_ratios_of_the_smallest_and_largest_numbers_stay_finite():
    assert log_ratios([5e-324], [1e308])[0] == pytest.approx(-631.3, abs=0.1)


def test_the_share_is_that_of_the_side_of_the_median():
    assert paired_ratio([0.5, 0.5, 2.0], [1.0] * 3).sign_share == pytest.approx(2 / 3)
    assert math.isnan(paired_ratio([], []).sign_share)
