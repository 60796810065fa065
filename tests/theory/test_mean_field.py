"""Published and computed numbers of mean-field theory, to four digits and more, and simulations of wide networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.theory.activations import (
    ACTIVATIONS,
    ELU,
    ERF,
    GELU,
    GELU_TANH,
    HARDTANH,
    LINEAR,
    RELU,
    SELU,
    SIGMOID,
    SILU,
    SOFTPLUS,
    TANH,
    from_callable,
    leaky_relu,
)
from headwater.theory.batch_norm import chi_with_batch_norm
from headwater.theory.mean_field import (
    Initialisation,
    chi,
    chi_with_layer_norm,
    chi_with_shortcut,
    correlation_map,
    critical_initialisation,
    critical_weight_variance,
    depth_scale,
    fixed_point,
    gradient_factor,
    pytorch_default,
    shortcut_growth,
    total_chi,
    variance_map,
)
from headwater.theory.shattering import relu_correlation

UNIT = Initialisation(1.0)


@pytest.mark.parametrize(
    ("activation", "second_moment", "slope", "layer_norm", "batch_norm"),
    [
        (RELU, 0.5, 0.5, 1.0, 1.46694),
        (TANH, 0.394294, 0.464403, 1.177807, 1.177807),
        (GELU, 0.425221, 0.455851, 1.072032, 1.318845),
        (SILU, 0.355776, 0.379482, 1.066634, 1.212081),
        (SELU, 1.0, 1.071575, 1.071575, 1.071575),
        (SIGMOID, 0.293379, 0.044836, 0.152827, 1.033592),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_moments_at_variance_one(activation, second_moment, slope, layer_norm, batch_norm):
    assert variance_map(activation, UNIT, 1.0) == pytest.approx(second_moment, rel=1e-5)
    assert chi(activation, UNIT, 1.0) == pytest.approx(slope, rel=1e-5)
    assert chi_with_layer_norm(activation) == pytest.approx(layer_norm, rel=1e-5)
    assert chi_with_batch_norm(activation) == pytest.approx(batch_norm, rel=1e-5)


def test_batch_norm_of_a_rectifier_in_closed_form():
    assert chi_with_batch_norm(RELU) == pytest.approx(math.pi / (math.pi - 1.0), rel=1e-9)


@pytest.mark.parametrize(
    ("bias_variance", "weight_variance"),
    [(0.01, 1.424205), (0.04, 1.700796), (0.05, 1.760955), (0.1, 1.986073), (0.3, 2.505127)],
)
def test_the_critical_line_of_tanh(bias_variance, weight_variance):
    assert critical_weight_variance(TANH, bias_variance) == pytest.approx(weight_variance, rel=1e-5)


def test_the_critical_points():
    assert critical_initialisation(RELU, 3.0) == Initialisation(2.0, 0.0)
    for activation, variance, expected in (
        (GELU, (3.0 + math.sqrt(17.0)) / 2.0, (1.983058, 0.172922)),
        (SILU, 14.3202, (1.988005, 0.555143)),
    ):
        found = critical_initialisation(activation, variance)
        assert (found.weight_variance, found.bias_variance) == pytest.approx(expected, rel=1e-5)
    for activation, expected in ((TANH, 1.0), (ERF, math.pi / 4.0)):
        assert 1.0 / chi(activation, UNIT, 0.0) == pytest.approx(expected, rel=1e-12)


def test_tanh_with_pytorchs_gain_is_mildly_chaotic():
    gain = Initialisation((5.0 / 3.0) ** 2)
    variance = fixed_point(TANH, gain)
    assert variance == pytest.approx(1.178480, rel=1e-6)
    assert chi(TANH, gain, variance) == pytest.approx(1.209831, rel=1e-6)


def test_he_initialisation_for_relu_is_too_small_for_gelu():
    assert total_chi(GELU, Initialisation(2.0), 1.0, 20) == pytest.approx(6.0e-5, rel=0.01)


@pytest.mark.parametrize(
    ("activation", "factor"),
    [
        (LINEAR, 0.577),
        (TANH, 0.577),
        (ELU, 0.570),
        (RELU, 0.408),
        (SOFTPLUS, 0.295),
        (GELU, 0.289),
        (SILU, 0.289),
        (SIGMOID, 0.141),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_pytorchs_default_linear_is_why_deep_networks_vanish(activation, factor):
    default = pytorch_default(512)
    assert gradient_factor(activation, default, fixed_point(activation, default)) == pytest.approx(factor, abs=6e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
@pytest.mark.parametrize("variance", [0.1, 1.0, 7.0])
def test_numerical_derivatives_give_the_same(activation, variance):
    numerical = from_callable(activation.function, kinks=activation.kinks)
    assert chi(numerical, UNIT, variance) == pytest.approx(chi(activation, UNIT, variance), rel=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
def test_a_wide_random_layer_agrees(activation):
    generator = np.random.default_rng(0)
    width, samples = 1000, 40
    weight = generator.normal(0.0, math.sqrt(1.3 / width), (width, width))
    bias = generator.normal(0.0, 0.5, width)
    before = generator.normal(0.0, 1.5, (samples, width))
    after = activation.function(before) @ weight.T + bias
    initialisation = Initialisation(1.3, 0.25)
    assert after.var() + after.mean() ** 2 == pytest.approx(variance_map(activation, initialisation, 2.25), rel=0.1)
    gradient = generator.normal(size=(samples, width))
    back = activation.derivative(before) * (gradient @ weight)
    ratio = (back**2).sum() / (gradient**2).sum()
    assert ratio == pytest.approx(chi(activation, initialisation, 2.25), rel=0.05)


@settings(max_examples=25)
@given(st.floats(-1.0, 1.0))
def test_the_correlation_map_of_a_rectifier_is_the_arc_cosine_kernel(correlation):
    found = correlation_map(RELU, Initialisation(2.0), 1.0, correlation)
    assert found == pytest.approx(relu_correlation(correlation), abs=1e-7)


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.999, 0.999), st.floats(0.05, 5.0))
def test_the_correlation_map_of_erf_is_the_arc_sine_kernel(correlation, variance):
    # Williams 1997: E erf(x) erf(y) = 2/pi arcsin(2 q c / (1 + 2 q)).
    expected = 2.0 / math.pi * math.asin(2.0 * variance * correlation / (1.0 + 2.0 * variance)) / variance
    assert correlation_map(ERF, UNIT, variance, correlation) == pytest.approx(expected, abs=1e-7)


@given(st.floats(1e-6, 1e6), st.floats(0.0, 1.0))
def test_rectifiers_do_not_care_for_the_scale(variance, slope):
    activation = leaky_relu(slope)
    assert variance_map(activation, UNIT, variance) == pytest.approx(0.5 * (1.0 + slope**2) * variance, rel=1e-9)
    assert chi(activation, UNIT, variance) == pytest.approx(0.5 * (1.0 + slope**2), rel=1e-9)


def test_both_forms_of_gelu_are_nearly_the_same():
    assert chi(GELU_TANH, UNIT, 1.0) == pytest.approx(chi(GELU, UNIT, 1.0), rel=1e-3)


def test_a_hard_tanh_loses_what_is_clipped():
    within = math.erf(1.0 / math.sqrt(2.0))
    assert chi(HARDTANH, UNIT, 1.0) == pytest.approx(within, rel=1e-9)


def test_depth_scales():
    assert depth_scale(0.5) == pytest.approx(1.0 / math.log(2.0))
    assert (depth_scale(1.0), depth_scale(0.0)) == (math.inf, 0.0)


def test_shortcuts():
    assert chi_with_shortcut(0.9) == pytest.approx(1.9)
    assert shortcut_growth(8) == 256.0
    assert shortcut_growth(10_000, scale=0.01) == pytest.approx(math.e, rel=1e-4)


def test_batch_norm_of_small_batches():
    assert [chi_with_batch_norm(LINEAR, batch=batch) for batch in (4, 5, 8)] == pytest.approx([2.0, 1.5, 1.2])
    with pytest.raises(ValueError, match="more than 3"):
        chi_with_batch_norm(RELU, batch=3)


def test_a_growing_signal_has_no_fixed_point():
    assert fixed_point(RELU, Initialisation(3.0)) == math.inf
    assert fixed_point(RELU, Initialisation(1.0)) == 0.0
    assert fixed_point(RELU, Initialisation(2.0), start=3.0) == pytest.approx(3.0)


@pytest.mark.parametrize("variances", [(-1.0, 0.0), (1.0, -1.0), (math.nan, 0.0), (1.0, math.inf)])
def test_variances_that_are_none_are_refused(variances):
    with pytest.raises(ValueError, match="expected"):
        Initialisation(*variances)
