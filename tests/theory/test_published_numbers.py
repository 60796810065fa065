"""Numbers of papers about Jacobians, shattering, finite width and recurrence, beside simulations in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from headwater.theory.activations import LINEAR, RELU, TANH
from headwater.theory.finite_width import factor_band, kappa, log_gain, second_moment_ratio, signal_kappa
from headwater.theory.jacobian import (
    GAUSSIAN,
    ORTHOGONAL,
    largest_squared_singular_value,
    layer_mean_singular_value,
    squared_singular_value_variance,
)
from headwater.theory.recurrent import gru_gain, lstm_gain, rnn_gain
from headwater.theory.shattering import gradient_correlation, gradient_correlation_with_shortcuts


def gaussian(generator, width, variance=1.0):
    return generator.normal(0.0, math.sqrt(variance / width), (width, width))


def orthogonal(generator, width):
    q, r = np.linalg.qr(generator.normal(size=(width, width)))
    return q * np.sign(np.diag(r))


def test_mean_singular_values_of_glorot_and_bengio():
    generator = np.random.default_rng(0)
    for variance, published in ((1.0 / 3.0, 0.490), (1.0, 0.849)):
        assert layer_mean_singular_value(variance) == pytest.approx(published, abs=5e-4)
        weight = generator.uniform(-1.0, 1.0, (1000, 1000)) * math.sqrt(3.0 * variance / 1000)
        assert np.linalg.svd(weight, compute_uv=False).mean() == pytest.approx(published, abs=2e-3)


@pytest.mark.parametrize(
    ("activation", "weights", "per_layer"),
    [(LINEAR, GAUSSIAN, 1.0), (RELU, GAUSSIAN, 2.0), (RELU, ORTHOGONAL, 1.0), (LINEAR, ORTHOGONAL, 0.0)],
)
def test_the_variance_of_squared_singular_values(activation, weights, per_layer):
    num_layers, width = 5, 400
    assert squared_singular_value_variance(activation, num_layers, weights=weights) == pytest.approx(
        per_layer * num_layers, abs=1e-9
    )
    found = []
    for seed in range(3):
        generator = np.random.default_rng(seed)
        jacobian = np.eye(width)
        for _ in range(num_layers):
            weight = gaussian(generator, width) if weights == GAUSSIAN else orthogonal(generator, width)
            slopes = activation.derivative(generator.normal(size=width))
            jacobian = (slopes[:, None] * weight) @ jacobian
        squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
        found.append((squares**2).mean() / squares.mean() ** 2 - 1.0)
    assert np.mean(found) == pytest.approx(per_layer * num_layers, rel=0.15, abs=1e-9)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_the_edge_of_a_product_of_gaussian_matrices(num_layers):
    generator = np.random.default_rng(0)
    product = np.eye(500)
    for _ in range(num_layers):
        product = gaussian(generator, 500) @ product
    largest = np.linalg.svd(product, compute_uv=False)[0] ** 2
    assert largest == pytest.approx(largest_squared_singular_value(num_layers), rel=0.1)


def test_the_gradients_of_two_inputs_shatter_as_predicted():
    generator = np.random.default_rng(0)
    width, num_layers, networks = 500, 8, 20
    for with_shortcut, theory in ((False, gradient_correlation), (True, gradient_correlation_with_shortcuts)):
        found = []
        for _ in range(networks):
            x = generator.normal(size=(2, width))
            x[1] = 0.8 * x[0] + 0.6 * x[1]
            weights = [gaussian(generator, width, 2.0) for _ in range(num_layers)]
            hidden, slopes = x, []
            outers = [gaussian(generator, width) for _ in range(num_layers)]  # so that branches have no mean
            for weight, outer in zip(weights, outers, strict=True):
                before = hidden @ weight.T
                slopes.append(before > 0.0)
                branch = np.maximum(before, 0.0)
                hidden = hidden + branch @ outer.T if with_shortcut else branch
            gradient = np.tile(generator.normal(size=width), (2, 1))
            for weight, outer, slope in zip(weights[::-1], outers[::-1], slopes[::-1], strict=True):
                into_branch = gradient @ outer if with_shortcut else gradient
                back = (into_branch * slope) @ weight
                gradient = back + gradient if with_shortcut else back
            found.append(gradient[0] @ gradient[1] / np.linalg.norm(gradient[0]) / np.linalg.norm(gradient[1]))
        assert np.mean(found) == pytest.approx(theory(0.8, num_layers), abs=0.04)


@pytest.mark.parametrize(("activation", "expected"), [(LINEAR, 2.0), (RELU, 5.0)])
def test_the_logarithm_of_the_gain_scatters_as_predicted(activation, expected):
    generator = np.random.default_rng(0)
    widths, scale = [40] * 10, 1.0 if activation is LINEAR else 2.0
    assert kappa(activation) == pytest.approx(expected)
    logs = []
    for _ in range(1500):
        gradient = generator.normal(size=40)
        start = gradient @ gradient
        for width in widths:
            slopes = activation.derivative(generator.normal(size=width))
            gradient = slopes * (gaussian(generator, width, scale).T @ gradient)
        logs.append(math.log(gradient @ gradient / start))
    theory = log_gain(kappa(activation), widths)
    assert np.mean(logs) == pytest.approx(theory.mean, abs=0.12)
    assert np.var(logs) == pytest.approx(theory.variance, rel=0.15)
    low, high = factor_band(1.0, kappa(activation), widths)
    factors = np.exp(0.5 * np.array(logs) / len(widths))
    assert ((factors > low) & (factors < high)).mean() > 0.99


@pytest.mark.parametrize("activation", [LINEAR, RELU, TANH], ids=lambda activation: activation.name)
def test_the_mean_square_of_a_narrow_layer_scatters_as_predicted(activation):
    values = activation.function(np.random.default_rng(0).normal(size=(20_000, 25)))
    squares = (values**2).mean(axis=1)
    assert 25 * squares.var() / squares.mean() ** 2 == pytest.approx(signal_kappa(activation), rel=0.1)


def test_the_second_moment_of_the_gain():
    assert second_moment_ratio(5.0, [50] * 3) == pytest.approx(1.1**3)


def test_a_recurrent_network_multiplies_by_its_orthogonal_gain_at_each_step():
    torch.manual_seed(0)
    cell = nn.RNNCell(3, 8).double()
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    nn.init.orthogonal_(cell.weight_hh, gain=0.7)
    start = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    state = start
    for _ in range(10):
        state = cell(torch.zeros(1, 3, dtype=torch.float64), state)
    direction = torch.randn(1, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(state, start, direction)
    assert (gradient.norm() / direction.norm()).item() == pytest.approx(rnn_gain(0.7, 10), rel=1e-9)


@pytest.mark.parametrize(("make", "theory"), [(nn.LSTMCell, lstm_gain), (nn.GRUCell, gru_gain)])
def test_gated_cells_without_weights_multiply_by_their_gate(make, theory):
    cell = make(3, 4).double()
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        cell.bias_ih[4:8] = 1.5  # the forget gate of an LSTM, the update gate of a GRU
    start = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    nothing, state = torch.zeros(1, 3, dtype=torch.float64), start
    hidden = torch.zeros(1, 4, dtype=torch.float64)
    for _ in range(6):
        if make is nn.LSTMCell:
            hidden, state = cell(nothing, (hidden, state))
        else:
            state = cell(nothing, state)
    (gradient,) = torch.autograd.grad(state.sum(), start)
    assert gradient.norm().item() / 2.0 == pytest.approx(theory(1.5, 6), rel=1e-9)


def test_tanh_scatters_between_linear_and_relu():
    assert 2.0 < kappa(TANH) < 5.0
