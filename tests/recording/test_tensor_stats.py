"""TensorStats against exact rational arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from headwater.recording import TensorStats
from headwater.recording.tensor_stats import scale_exponent_for
from tests.recording.strategies import ANY_FLOAT, FINITE_FLOAT, exponents_of

VALUES = st.lists(ANY_FLOAT, max_size=20)
FINITE_VALUES = st.lists(FINITE_FLOAT, min_size=1, max_size=20)
EXTREMES = [5e-324, -5e-324, 1e-320, 2.2250738585072014e-308, 1e-200, 1e-30, 1.0, 1e30, 1e200, -1e308]


def root(value: Fraction) -> float:
    """The square root of an exact number, also where the number itself is past float64."""
    if value == 0:
        return 0.0
    shift = (value.denominator.bit_length() - value.numerator.bit_length() + 120) // 2
    scaled = value * Fraction(4) ** shift
    return math.ldexp(math.isqrt(int(scaled)), -shift)


def assert_close(a: TensorStats, b: TensorStats, *, rel: float = 1e-12) -> None:
    """Equal counts; equal moments up to float64 rounding (the sum relative to the sum of absolute values)."""
    for name in ("numel", "nan_count", "inf_count", "zero_count", "max_abs", "scale_exponent", "exponents"):
        assert getattr(a, name) == getattr(b, name), name
    assert a.sum_abs == pytest.approx(b.sum_abs, rel=rel, abs=0)
    assert a.sum_squares == pytest.approx(b.sum_squares, rel=rel, abs=0)
    assert a.sum == pytest.approx(b.sum, rel=0, abs=rel * b.sum_abs)


@given(VALUES)
@example(EXTREMES)
@example([5e-324] * 3)
@example([1.7976931348623157e308])
@example([math.nan, math.inf, -math.inf])
def test_every_statistic_agrees_with_exact_arithmetic(values):
    stats = TensorStats.from_values(values)
    finite = [Fraction(v) for v in values if math.isfinite(v)]
    assert stats.numel == len(values)
    assert stats.finite_count == len(finite)
    assert stats.nonfinite_count == sum(not math.isfinite(v) for v in values)
    assert stats.zero_count == sum(v == 0 for v in finite)
    squares = sum((v * v for v in finite), Fraction(0))
    tiny = 5e-324  # the last bit of a subnormal result
    largest = 1.7976931348623157e308
    if squares <= Fraction(largest) ** 2:
        assert stats.norm == pytest.approx(root(squares), rel=1e-12, abs=tiny)
    if finite:
        assert stats.rms == pytest.approx(root(squares / len(finite)), rel=1e-12, abs=tiny)
        mean_abs = sum(map(abs, finite)) / len(finite)
        assert stats.mean_abs == pytest.approx(float(mean_abs), rel=1e-12, abs=tiny)
        assert stats.mean == pytest.approx(float(sum(finite) / len(finite)), rel=0, abs=1e-12 * float(mean_abs) + tiny)


def test_nothing_finite_gives_nan_and_an_empty_tensor_has_norm_zero():
    for values in ([], [math.nan], [math.inf, -math.inf]):
        stats = TensorStats.from_values(values)
        assert all(math.isnan(value) for value in (stats.mean, stats.mean_abs, stats.rms, stats.std))
        assert stats.norm == 0.0
        assert not stats.is_zero
    assert math.isnan(TensorStats.from_values([]).zero_fraction)
    assert TensorStats.from_values([math.nan, 0.0]).zero_fraction == 0.5


def test_zero_means_every_element_is_zero():
    assert TensorStats.from_values([0.0, -0.0]).is_zero
    assert not TensorStats.from_values([0.0, math.nan]).is_zero
    assert not TensorStats.from_values([0.0, 5e-324]).is_zero


def test_the_standard_deviation_is_the_populations():
    assert TensorStats.from_values([1.0, 3.0]).std == 1.0
    assert TensorStats.from_values([0.1] * 7).std == pytest.approx(0.0, abs=1e-8)


@given(VALUES, VALUES)
@example([1.0], [1e300])
@example([5e-324], [1e308])
@example([2.0**-400], [2.0**-401])
@example([2.0**400], [2.0**401, 1.0])
def test_splitting_and_merging_equals_the_whole(left, right):
    merged = TensorStats.from_values(left).merge(TensorStats.from_values(right))
    assert_close(merged, TensorStats.from_values(left + right))


@given(VALUES, VALUES)
def test_merging_is_commutative_to_the_bit(left, right):
    a, b = TensorStats.from_values(left), TensorStats.from_values(right)
    assert a.merge(b) == b.merge(a)


@given(VALUES, VALUES, VALUES)
@example([5e-324], [1.0], [1e308])
@example([1e-150], [1e-122], [1e122])
def test_merging_is_associative(first, second, third):
    a, b, c = map(TensorStats.from_values, (first, second, third))
    assert_close(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(VALUES)
def test_an_empty_tensor_changes_nothing(values):
    stats = TensorStats.from_values(values)
    assert stats.merge(TensorStats.from_values([])) == stats
    assert TensorStats.from_values([]).merge(stats) == stats


@given(FINITE_VALUES, st.integers(-2200, 2200))
@example([5e-324], 2097)
@example([1.7976931348623157e308], -2098)
@example([1.0, 3.0], 400)
def test_scaling_by_a_power_of_two_is_exact_where_the_values_stay_in_range(values, exponent):
    nonzero = [v for v in values if v != 0]
    assume(all(-1000 < math.frexp(v)[1] + exponent < 1000 for v in nonzero))
    scaled = TensorStats.from_values(values).scaled_by_power_of_two(exponent)
    # Subnormal values become normal ones without gaining or losing a bit.
    assert_close(scaled, TensorStats.from_values([math.ldexp(v, exponent) for v in values]), rel=1e-14)


@given(st.lists(st.floats(-1e100, 1e100), max_size=20), st.integers(-300, 300))
def test_scaling_there_and_back_gives_the_same_norm(values, exponent):
    assume(all(math.frexp(v)[1] + exponent > -1000 for v in values if v != 0))
    stats = TensorStats.from_values(values)
    back = stats.scaled_by_power_of_two(exponent).scaled_by_power_of_two(-exponent)
    assert back.norm == pytest.approx(stats.norm, rel=1e-14, abs=0)
    assert back.zero_count == stats.zero_count


def test_scaling_out_of_the_range_gives_infinity_or_zero_and_raises_nothing():
    stats = TensorStats.from_values([3.0, -4.0])
    assert stats.scaled_by_power_of_two(5000).norm == math.inf
    assert stats.scaled_by_power_of_two(-5000).norm == 0.0
    assert stats.scaled_by_power_of_two(5000).mean_abs == math.inf


@given(VALUES, VALUES)
def test_histograms_merge_with_their_statistics(left, right):
    def with_histogram(values: list[float]) -> TensorStats:
        return replace(TensorStats.from_values(values), exponents=exponents_of(values))

    merged = with_histogram(left).merge(with_histogram(right))
    assert merged.exponents == exponents_of(left + right)
    assert merged.exponents.total == merged.finite_count - merged.zero_count


def test_a_histogram_of_only_one_part_is_dropped():
    with_histogram = replace(TensorStats.from_values([1.0]), exponents=exponents_of([1.0]))
    without = TensorStats.from_values([1.0])
    assert with_histogram.merge(without).exponents is None
    assert without.merge(with_histogram).exponents is None
    assert with_histogram.merge(TensorStats.from_values([])).exponents == exponents_of([1.0])


@given(st.floats(min_value=5e-324, max_value=1.7976931348623157e308))
@example(5e-324)
@example(1.7976931348623157e308)
@example(2.0**-400)
@example(2.0**400)
def test_the_scale_keeps_squares_of_a_trillion_such_values_normal(max_abs):
    scaled = math.ldexp(max_abs, -scale_exponent_for(max_abs))
    assert math.isfinite(scaled * scaled * 1e12)
    assert scaled * scaled * 1e-30 > 2.3e-308
