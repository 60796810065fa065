"""ExponentHistogram against counting by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater.recording import ExponentHistogram
from tests.recording.strategies import FINITE_FLOAT, HISTOGRAMS, exponents_of

VALUES = st.lists(FINITE_FLOAT, min_size=1, max_size=30)


def content(histogram: ExponentHistogram) -> dict[int, int]:
    """The counts by exponent, without the empty bins."""
    return {histogram.lowest + index: count for index, count in enumerate(histogram.counts) if count}


@given(VALUES, st.integers(-1080, 1030))
@example([5e-324, 1.0, 2.0], 1)
def test_counting_below_a_power_of_two_is_exact(values, exponent):
    expected = sum(v != 0 and (math.frexp(v)[1] - 1) < exponent for v in values)
    assert exponents_of(values).count_below(exponent) == expected


@given(VALUES, st.floats(0, 1))
def test_a_percentile_is_the_bin_of_that_element_in_order_of_size(values, fraction):
    ordered = sorted(abs(v) for v in values if v != 0)
    if not ordered:
        with pytest.raises(ValueError, match="without elements"):
            exponents_of(values).percentile_exponent(fraction)
        return
    element = ordered[math.floor(fraction * (len(ordered) - 1))]
    assert exponents_of(values).percentile_exponent(fraction) == math.frexp(element)[1] - 1


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan, math.inf])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(ValueError, match="expected a fraction from 0 to 1"):
        ExponentHistogram(0, (1,)).percentile_exponent(fraction)


def test_the_last_percentile_of_very_many_elements_is_the_last_bin():
    assert ExponentHistogram(0, (2**54 + 3, 1)).percentile_exponent(1.0) == 1


@given(HISTOGRAMS, HISTOGRAMS)
def test_merging_is_commutative_and_adds_the_counts(a, b):
    merged = a.merge(b)
    assert content(merged) == content(b.merge(a))
    assert content(merged) == {e: content(a).get(e, 0) + content(b).get(e, 0) for e in {**content(a), **content(b)}}


@given(HISTOGRAMS, HISTOGRAMS, HISTOGRAMS)
def test_merging_is_associative(a, b, c):
    assert content(a.merge(b).merge(c)) == content(a.merge(b.merge(c)))


@given(HISTOGRAMS, st.integers(-50, 50))
def test_shifting_moves_every_count(histogram, exponent):
    shifted = histogram.shifted(exponent)
    assert content(shifted) == {e + exponent: count for e, count in content(histogram).items()}
    assert shifted.total == histogram.total
