from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.theory.activations import ACTIVATIONS, ERF, GELU_TANH, HARDTANH, RELU, SELU, TANH
from headwater.theory.dual_activation import correlation_depth_scale, correlation_fixed_point, dual_activation
from headwater.theory.mean_field import Initialisation, chi, depth_scale, fixed_point
from headwater.theory.quadrature import gaussian_mean, gaussian_mean_of_product


@pytest.mark.parametrize("activation", [TANH, RELU, SELU, GELU_TANH, HARDTANH], ids=lambda a: a.name)
@pytest.mark.parametrize("variance", [0.3, 2.0])
@pytest.mark.parametrize("correlation", [0.0, 0.5, -0.7])
def test_the_series_is_the_double_integral(activation, variance, correlation):
    dual = dual_activation(activation, variance)
    exact = gaussian_mean_of_product(activation.function, variance, correlation, activation.kinks)
    assert dual.value(correlation) == pytest.approx(exact, abs=1e-10)
    slopes = gaussian_mean_of_product(activation.derivative, variance, correlation, activation.kinks)
    # Of a derivative that jumps, the terms fall as k^(-1/2) times c^k.
    assert dual.slope(correlation) == pytest.approx(variance * slopes, abs=1e-8 * max(1.0, variance))


@pytest.mark.parametrize("correlation", [0.1, 0.5, 0.9])
def test_relu_and_erf_have_the_closed_forms_of_arc_cosine_and_arc_sine(correlation):
    """Cho & Saul 2009; Williams 1997."""
    angle = math.acos(correlation)
    arc_cosine = (math.sin(angle) + (math.pi - angle) * correlation) / (2.0 * math.pi)
    assert dual_activation(RELU, 1.0).value(correlation) == pytest.approx(arc_cosine, abs=1e-9)
    variance = 1.7
    arc_sine = 2.0 / math.pi * math.asin(2.0 * variance * correlation / (1.0 + 2.0 * variance))
    assert dual_activation(ERF, variance).value(correlation) == pytest.approx(arc_sine, abs=1e-12)


def test_at_correlation_one_it_is_the_second_moment():
    for activation in ACTIVATIONS:
        exact = gaussian_mean(lambda x, f=activation.function: f(x) ** 2, 1.3, activation.kinks)
        assert dual_activation(activation, 1.3).value(1.0) == pytest.approx(exact, abs=2e-4)


@given(st.floats(2.1, 6.0), st.floats(0.0, 0.1))
def test_in_chaos_the_fixed_point_of_the_correlation_is_one_of_its_map_and_attracts(weight_variance, bias_variance):
    start = Initialisation(weight_variance, bias_variance)
    variance = fixed_point(TANH, start)
    correlation = correlation_fixed_point(TANH, start, variance)
    assert 0.0 <= correlation < 1.0
    mapped = (weight_variance * dual_activation(TANH, variance).value(correlation) + bias_variance) / variance
    assert mapped == pytest.approx(correlation, abs=1e-9)
    assert (
        weight_variance * dual_activation(TANH, variance).slope(correlation) / variance
        < 1.0
        < chi(TANH, start, variance)
    )


def test_in_order_correlation_and_gradient_have_the_same_depth_scale():
    start = Initialisation(1.3, 0.05)
    variance = fixed_point(TANH, start)
    assert correlation_depth_scale(TANH, start, variance) == depth_scale(chi(TANH, start, variance))


def test_the_depth_scale_diverges_on_the_critical_line_and_falls_to_both_sides():
    scales = [
        correlation_depth_scale(TANH, s, fixed_point(TANH, s))
        for s in (Initialisation(w, 0.05) for w in (1.2, 1.7609, 2.5))
    ]
    assert scales[1] > 1000 > 20 > max(scales[0], scales[2])
