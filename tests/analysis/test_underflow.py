from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwater.analysis.underflow import Tail, half_ulps_of, normal_energy_within, normal_share_within
from headwater.capture.moments import measure
from headwater.recording import TensorStats
from headwater.recording.float_formats import FLOAT_FORMATS

FORMATS = sorted(FLOAT_FORMATS)


def _rounded(values, name):
    """What the format makes of float64 values, and so an oracle that knows nothing of exponents."""
    return values.float().to(getattr(torch, name)).double()


def _normal(sigma, num=200_000, seed=0):
    return sigma * torch.randn(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", FORMATS)
def test_the_ranges_are_those_of_the_formats(name):
    form = FLOAT_FORMATS[name]
    smallest = torch.tensor(2.0**form.smallest_exponent, dtype=torch.float64)
    assert _rounded(smallest, name) == smallest
    assert _rounded(smallest / 2, name) == 0.0
    assert _rounded(smallest * 0.5001, name) == smallest
    assert torch.finfo(getattr(torch, name)).max == form.largest


@given(name=st.sampled_from(FORMATS), size=st.floats(1e-30, 1e30))
def test_the_largest_scale_is_the_largest(name, size):
    form = FLOAT_FORMATS[name]
    exponent = form.largest_scale_exponent(size)
    assert math.ldexp(size, exponent) <= form.largest < math.ldexp(size, exponent + 1)


@pytest.mark.parametrize("size", [0.0, -1.0, math.inf, math.nan])
def test_nothing_has_no_largest_scale(size):
    with pytest.raises(ValueError, match="positive finite size"):
        FLOAT_FORMATS["float16"].largest_scale_exponent(size)


@given(
    name=st.sampled_from(FORMATS),
    exponent=st.integers(-12, 12),
    scale_exponent=st.integers(-8, 8),
    seed=st.integers(0, 3),
)
def test_what_is_lost_of_wider_numbers_is_counted_exactly(name, exponent, scale_exponent, seed):
    form = FLOAT_FORMATS[name]
    values = _normal(math.ldexp(1.0, form.smallest_exponent + exponent), 2_000, seed)
    values[::7] = 0.0
    lost = Tail(measure(values, exponents=True), form).lost(scale_exponent)
    # float32 has no smaller numbers than bfloat16's: round by hand what is between them
    scaled = values * math.ldexp(1.0, scale_exponent)
    is_lost = (values != 0) & (scaled.abs() <= math.ldexp(1.0, form.vanishing_exponent))
    if name != "bfloat16":
        assert torch.equal(is_lost, (values != 0) & (_rounded(scaled, name) == 0))
    assert lost.entries == pytest.approx(int(is_lost.sum()) / int((values != 0).sum()), abs=1e-12)
    energy = float(values[is_lost].square().sum() / values.square().sum())
    assert lost.energy == pytest.approx(energy, rel=0.25, abs=0.01)


@pytest.mark.parametrize(("sigma_exponent", "share"), [(-24, 0.3829), (-25, 0.6827), (-22, 0.0995)])
def test_of_a_normal_distribution_the_error_function_is_lost(sigma_exponent, share):
    lost = Tail(measure(_normal(2.0**sigma_exponent), exponents=True), FLOAT_FORMATS["float16"]).lost()
    half_ulps = 2.0 ** (-25 - sigma_exponent)
    assert share == pytest.approx(math.erf(2.0**-25 / (2.0**sigma_exponent * math.sqrt(2.0))), abs=1e-4)
    assert lost.entries == pytest.approx(share, abs=4 * math.sqrt(share / 200_000))
    assert lost.energy == pytest.approx(normal_energy_within(half_ulps), rel=0.05)


@given(st.floats(0.01, 2.0))
def test_the_deviation_is_found_from_the_entries_next_to_zero(half_ulps):
    rest = math.erfc(half_ulps / math.sqrt(2.0))
    share = (rest - math.erfc(3.0 * half_ulps / math.sqrt(2.0))) / rest
    assert half_ulps_of(share) == pytest.approx(half_ulps, rel=1e-4)
    assert half_ulps_of(0.0) == pytest.approx(0.0, abs=1e-9)
    assert half_ulps_of(1.0) == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("name", ["float16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(
    ("exponent", "masked"), [(-2, False), *((e, masked) for e in (-1, 0, 1, 2, 5, 10) for masked in (False, True))]
)
def test_of_numbers_that_were_rounded_the_loss_is_reckoned_and_masks_are_none(name, exponent, masked):
    form = FLOAT_FORMATS[name]
    values = _normal(math.ldexp(1.0, form.smallest_exponent + exponent))
    rounded = _rounded(values, name)
    half_ulps = 2.0 ** (-1 - exponent)
    if masked:
        rounded[::2] = 0.0  # as ReLU does
    lost = Tail(measure(rounded, exponents=True), form, is_rounded=True).lost()
    assert lost.entries == pytest.approx(normal_share_within(half_ulps), abs=0.01)
    assert lost.energy == pytest.approx(normal_energy_within(half_ulps), abs=0.01)


def test_of_rounded_numbers_a_scale_saves_what_it_saves_of_a_normal_distribution():
    values = _normal(2.0**-25)
    tail = Tail(measure(_rounded(values, "float16"), exponents=True), FLOAT_FORMATS["float16"], is_rounded=True)
    for exponent in (1, 3, 6):
        assert tail.lost(exponent).entries == pytest.approx(normal_share_within(2.0**-exponent), abs=0.01)


def test_numbers_that_were_measured_with_a_larger_loss_are_judged_as_they_are():
    # The pass ran with the loss times 2**10; without that, the tensor would have lain at 2**-26.
    values = _rounded(_normal(2.0**-16), "float16")
    stats = measure(values, exponents=True).scaled_by_power_of_two(-10)
    tail = Tail(stats, FLOAT_FORMATS["float16"], is_rounded=True, scale_exponent=10)
    assert tail.lost().entries == pytest.approx(normal_share_within(2.0), abs=0.01)
    assert tail.lost(10).entries == pytest.approx(normal_share_within(2.0**-9), abs=0.01)


def test_a_tensor_of_zeros_has_nothing_to_lose():
    for stats in (TensorStats(3, zero_count=3), measure(torch.zeros(3), exponents=True)):
        assert math.isnan(Tail(stats, FLOAT_FORMATS["float16"]).lost().entries)
