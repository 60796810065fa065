"""Densities of squared singular values: closed forms, moments, and large matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.theory.activations import GELU, LINEAR, RELU, SIGMOID, TANH, leaky_relu
from headwater.theory.jacobian import GAUSSIAN, ORTHOGONAL, largest_squared_singular_value
from headwater.theory.mean_field import Initialisation
from headwater.theory.spectrum import (
    fuss_catalan_density,
    fuss_catalan_moment,
    spectral_density,
    spectral_edge,
    squared_singular_value_moments,
)

UNIT = Initialisation(1.0)


def share_above(density):
    """Of each point: the integral from there to the edge, over the logarithm."""
    heights, places = density.density * density.squares, np.log(density.squares)
    pieces = np.diff(places) * (heights[1:] + heights[:-1]) / 2.0
    return np.append(np.cumsum(pieces[::-1])[::-1], 0.0)


def moment(density, order):
    return float(np.trapezoid(density.density * density.squares**order * density.squares, np.log(density.squares)))


@pytest.mark.parametrize("num_layers", [1, 2, 3, 7])
def test_the_closed_form_has_the_moments_of_fuss_and_catalan(num_layers):
    density = fuss_catalan_density(num_layers, num_points=20_000)
    for order in range(1, 5):
        assert moment(density, order) == pytest.approx(fuss_catalan_moment(num_layers, order), rel=1e-3)
    assert density.edge == pytest.approx(largest_squared_singular_value(num_layers))
    assert density.squares[-1] == pytest.approx(density.edge, rel=1e-3)
    assert (np.diff(density.squares) > 0).all()


def test_moments_of_fuss_and_catalan_in_closed_form():
    for num_layers in range(1, 6):
        assert fuss_catalan_moment(num_layers, 2) == num_layers + 1
        assert fuss_catalan_moment(num_layers, 3) == (num_layers + 1) * (3 * num_layers + 2) / 2


@pytest.mark.parametrize("num_layers", [1, 2, 5, 20])
def test_free_probability_of_linear_layers_is_the_closed_form(num_layers):
    scale = 1.3**num_layers
    closed = fuss_catalan_density(num_layers, num_points=4000, scale=scale)
    found = spectral_density(LINEAR, Initialisation(1.3), num_layers)
    assert found.edge == pytest.approx(closed.edge, rel=1e-9)
    inside = (found.squares > closed.squares[9]) & (found.squares < 0.99 * found.edge)
    expected = np.exp(np.interp(np.log(found.squares[inside]), np.log(closed.squares), np.log(closed.per_decade)))
    np.testing.assert_allclose(found.per_decade[inside], expected, rtol=2e-3)


@pytest.mark.parametrize("num_layers", [3, 5, 20])
def test_the_edge_of_orthogonal_rectifiers_in_closed_form(num_layers):
    # x(z) = (1 + z) / z ((z + 1/2) / (z + 1))^L 2^L has its minimum at z = 1 / (L - 2).
    z = 1.0 / (num_layers - 2)
    expected = (1.0 + z) / z * (2.0 * (z + 0.5) / (z + 1.0)) ** num_layers
    assert spectral_edge(RELU, Initialisation(2.0), num_layers, weights=ORTHOGONAL) == pytest.approx(expected, rel=1e-9)


def test_two_orthogonal_layers_of_rectifiers_are_the_arcsine_law():
    found = spectral_density(RELU, Initialisation(2.0), 2, weights=ORTHOGONAL)
    assert (found.edge, found.share_at_zero) == (pytest.approx(4.0, rel=1e-5), 0.5)
    inside = (found.squares > 1e-3) & (found.squares < 3.99)
    x = found.squares[inside]
    np.testing.assert_allclose(found.density[inside], 0.5 / (np.pi * np.sqrt(x * (4.0 - x))), rtol=1e-3)


@pytest.mark.parametrize("weights", [GAUSSIAN, ORTHOGONAL])
@pytest.mark.parametrize("activation", [RELU, TANH, GELU, SIGMOID, leaky_relu(0.3)], ids=lambda a: a.name)
@pytest.mark.parametrize("num_layers", [2, 6])
def test_a_density_has_its_moments(activation, weights, num_layers):
    initialisation = Initialisation(1.7)
    density = spectral_density(activation, initialisation, num_layers, weights=weights, num_points=800)
    expected = squared_singular_value_moments(activation, initialisation, num_layers, weights=weights)
    assert moment(density, 1) == pytest.approx(expected.mean_square, rel=0.01)
    assert moment(density, 2) == pytest.approx(expected.mean_fourth, rel=0.01)
    assert density.squares[-1] <= density.edge
    assert (density.density >= 0.0).all()


@settings(max_examples=10)
@given(st.integers(1, 12), st.floats(0.05, 3.0), st.booleans())
@example(2, 0.0625, False)  # 1.024 with 120 points
def test_no_density_has_more_than_everything(num_layers, variance, is_gaussian):
    weights = GAUSSIAN if is_gaussian else ORTHOGONAL
    density = spectral_density(TANH, UNIT, num_layers, weights=weights, variance=variance, num_points=240)
    if len(density.squares):
        assert 0.0 < share_above(density)[0] <= 1.02  # the trapezoids' error, which falls with the square of the points
    assert density.edge >= squared_singular_value_moments(
        TANH, UNIT, num_layers, weights=weights, variance=variance
    ).mean_square * (1.0 - 1e-9)


def test_a_large_random_product_agrees_everywhere():
    generator = np.random.default_rng(0)
    width, num_layers, variance = 400, 4, 0.5
    jacobian = np.eye(width)
    for _ in range(num_layers):
        slopes = TANH.derivative(generator.normal(size=width) * math.sqrt(variance))
        jacobian = slopes[:, None] * (generator.normal(size=(width, width)) * math.sqrt(1.5 / width) @ jacobian)
    squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
    density = spectral_density(TANH, Initialisation(1.5), num_layers, variance=variance)
    measured = (squares[None, :] > density.squares[:, None]).mean(axis=1)
    np.testing.assert_allclose(share_above(density), measured, atol=0.03)


def test_a_large_product_of_gaussian_matrices_agrees_everywhere():
    generator = np.random.default_rng(0)
    width, num_layers = 400, 3
    squares = np.zeros(0)
    for _ in range(3):
        product = np.eye(width)
        for _ in range(num_layers):
            product = generator.normal(size=(width, width)) / math.sqrt(width) @ product
        squares = np.append(squares, np.linalg.svd(product, compute_uv=False) ** 2)
    for order in (1, 2, 3):
        assert (squares**order).mean() == pytest.approx(fuss_catalan_moment(num_layers, order), rel=0.15)
    density = fuss_catalan_density(num_layers)
    measured = (squares[None, :] > density.squares[:, None]).mean(axis=1)
    np.testing.assert_allclose(share_above(density), measured, atol=0.02)


def test_equal_singular_values_have_no_density():
    found = spectral_density(LINEAR, Initialisation(2.0), 3, weights=ORTHOGONAL)
    assert (len(found.squares), found.edge) == (0, pytest.approx(8.0))
    single = spectral_density(RELU, Initialisation(2.0), 1, weights=ORTHOGONAL)
    assert (len(single.squares), single.edge, single.share_at_zero) == (0, pytest.approx(2.0), 0.5)


@pytest.mark.parametrize("call", [fuss_catalan_density, lambda n: spectral_edge(RELU, UNIT, n)])
def test_no_layers_are_refused(call):
    with pytest.raises(ValueError, match="at least 1 layer"):
        call(0)
