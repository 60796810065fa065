from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.lab.sweep.depth_scales import fitted_rate, theory_rate
from headwater.lab.sweep.statistics import depth_scale_interval, depth_scale_layers, gain_columns, rates

RATES = st.floats(-2.0, 2.0).filter(lambda rate: abs(rate) > 1e-6)


@given(RATES)
def test_a_gradient_falls_by_e_over_twice_its_depth_scale(rate):
    """xi is of squares: |delta|² falls by e over xi layers."""
    layers = depth_scale_layers(rate)
    assert 10.0 ** (2.0 * abs(rate) * layers) == pytest.approx(math.e)


@given(RATES, st.floats(0.0, 1.0))
def test_the_interval_of_the_depth_scale_is_that_of_the_rate_and_open_where_the_rate_may_be_zero(rate, half):
    low, high = depth_scale_interval(rate - half, rate + half)
    assert low <= depth_scale_layers(rate) <= high
    assert (high == math.inf) == (rate - half <= 0.0 <= rate + half)


def test_rates_cover_the_true_one_in_95_of_100_networks():
    generator = np.random.default_rng(0)
    steps = generator.normal(-0.1, 0.3, (4000, 7))
    gains = np.cumsum(np.concatenate([np.zeros((4000, 1)), -steps], axis=1), axis=1)
    mean, low, high = rates(gains)
    np.testing.assert_allclose(mean, steps.mean(axis=1))
    assert ((low <= -0.1) & (high >= -0.1)).mean() == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_layers_that_are_not_finite_are_left_out_and_a_network_without_two_layers_has_no_rate():
    mean, _, _ = rates(np.array([[-math.inf, -2.0, -1.0, 0.0], [math.nan] * 4]))
    assert mean[0] == -1.0
    assert math.isnan(mean[1])
    assert np.isnan(rates(np.array([[-1.0]]))[0]).all()
    row = gain_columns(np.array([[-1.0], [-2.0]]), np.ones((2, 1)), np.ones(2))
    assert row["gain_decades"] == -1.5
    assert math.isnan(row["rate_decades_per_layer"])


@given(RATES, st.floats(-3.0, 3.0), st.lists(st.integers(2, 200), min_size=3, max_size=8, unique=True))
def test_a_line_through_the_gains_gives_the_rate_back_whatever_head_and_first_layer_cost(rate, offset, depths):
    cells = [{"depth": d, "gain_decades": rate * d + offset, "rate_decades_per_layer": math.nan} for d in depths]
    fit = fitted_rate(cells)
    assert fit.slope == pytest.approx(rate, abs=1e-7)
    assert fit.low <= fit.slope <= fit.high


def test_a_fit_of_noisy_gains_whose_variance_grows_with_depth_covers_the_true_rate():
    generator = np.random.default_rng(1)
    depths, hits = np.array([4, 8, 16, 32, 64]), 0
    for _ in range(2000):
        gains = -0.2 * depths + generator.normal(0, 0.1 * np.sqrt(depths))
        fit = fitted_rate(
            [
                {"depth": d, "gain_decades": g, "rate_decades_per_layer": -0.2}
                for d, g in zip(depths, gains, strict=True)
            ]
        )
        hits += fit.low <= -0.2 <= fit.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.017)  # 3.5 standard errors


def test_one_depth_has_its_cells_rate_with_its_interval_and_no_theory_gives_nan():
    cell = {
        "depth": 8,
        "gain_decades": -3.0,
        "rate_decades_per_layer": -0.4,
        "rate_decades_per_layer_low": -0.5,
        "rate_decades_per_layer_high": -0.3,
    }
    assert tuple(fitted_rate([cell])) == (-0.4, -0.5, -0.3)
    assert math.isnan(theory_rate([cell]))
