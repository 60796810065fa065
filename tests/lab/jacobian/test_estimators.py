"""Moments, extreme singular values and distributions beside float64 singular values of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headwater.lab.jacobian import (
    Estimate,
    JacobianSpectrum,
    jacobian_moments,
    jacobian_spectrum,
    partial_jacobian_norm,
    singular_values,
)
from headwater.lab.jacobian.lanczos import golub_kahan
from headwater.lab.jacobian.singular_values import extreme_singular_values
from tests.lab.jacobian.dense_oracle import dense_jacobians, exact_singular_values


class Matrices:
    """An operator that is a list of matrices."""

    precision = float(np.finfo(np.float64).eps)

    def __init__(self, *matrices):
        self.matrices = np.stack(matrices)
        self.num_samples, self.num_outputs, self.num_inputs = self.matrices.shape

    def times(self, directions):
        return np.einsum("soi,si->so", self.matrices, directions)

    def transposed_times(self, cotangents):
        return np.einsum("soi,so->si", self.matrices, cotangents)


def with_singular_values(values, num_outputs, num_inputs, seed=0):
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.normal(size=(num_outputs, len(values))))[0]
    right = np.linalg.qr(generator.normal(size=(num_inputs, len(values))))[0]
    return left * np.asarray(values) @ right.T


def network(num_layers=4, width=24):
    torch.manual_seed(0)
    layers = [layer for _ in range(num_layers) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, width - 4)).double()


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (30, 30), (1, 5), (5, 1)])
def test_extreme_singular_values_of_random_matrices(which, shape):
    operator = Matrices(*(np.random.default_rng(seed).normal(size=shape) for seed in range(3)))
    found = extreme_singular_values(operator, 4, which=which)
    exact = exact_singular_values(operator.matrices)
    count = min(4, *shape)
    expected = exact[:, :count] if which == "largest" else exact[:, -count:]
    np.testing.assert_allclose(found.values, expected, atol=1e-5 * exact.max())
    assert (np.abs(found.values - expected) <= found.errors + 1e-13 * exact.max()).all()
    assert found.is_converged


@pytest.mark.parametrize(
    "values",
    [
        [5.0, 5.0, 5.0, 1.0, 0.5, 0.5],
        [1.0] * 6,
        [3.0, 3.0 - 1e-9, 2.0, 2.0, 0.0, 0.0],
        [1e-30, 1e-31, 1e-32, 0.0, 0.0, 0.0],
        [1.0, 1e-5, 1e-10, 1e-12, 0.0, 0.0],
    ],
)
def test_multiple_clustered_and_tiny_singular_values(values):
    operator = Matrices(with_singular_values(values, 30, 20), with_singular_values(values, 30, 20, seed=1))
    found = extreme_singular_values(operator, 4)
    np.testing.assert_allclose(found.values, np.tile(values[:4], (2, 1)), atol=1e-5 * values[0])


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 8), st.integers(0, 10), st.integers(0, 1000))
def test_largest_singular_values_of_any_shape_and_rank(num_outputs, num_inputs, k, rank, seed):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(num_outputs, rank)) @ generator.normal(size=(rank, num_inputs))
    found = extreme_singular_values(Matrices(matrix), k, seed=seed)
    exact = exact_singular_values(matrix)[: found.values.shape[1]]
    assert found.values.shape[1] == min(k, num_outputs, num_inputs)
    np.testing.assert_allclose(found.values[0], exact, atol=1e-5 * max(exact[0], 1e-300))


def test_what_has_not_converged_says_so():
    values = np.linspace(1.0, 0.9, 300)
    found = extreme_singular_values(Matrices(with_singular_values(values, 300, 300)), 3, most_products=10)
    assert not found.is_converged
    assert found.num_products <= 15
    assert (np.abs(found.values[0] - values[:3]) <= found.errors[0]).all()


def test_singular_values_of_a_network():
    model, inputs = network(), torch.randn(3, 24).double()
    exact = exact_singular_values(dense_jacobians(model, inputs))
    largest = singular_values(model, inputs, k=5)
    np.testing.assert_allclose(largest.values, exact[:, :5], rtol=1e-5)
    smallest = singular_values(model, inputs, k=2, which="smallest", tolerance=1e-12)
    np.testing.assert_allclose(smallest.values, exact[:, -2:], rtol=1e-6, atol=1e-14)


def test_moments_are_right_within_their_errors():
    """Over many seeds the deviations have the size that their errors say."""
    model, inputs = network(), torch.randn(2, 24).double()
    exact = exact_singular_values(dense_jacobians(model, inputs))
    expected = {
        "sum_of_squares": (exact**2).sum(1),
        "sum_of_fourths": (exact**4).sum(1),
        "relative_variance": (exact**4).mean(1) / (exact**2).mean(1) ** 2 - 1.0,
    }
    found = [jacobian_moments(model, inputs, probes=16, seed=seed) for seed in range(60)]
    for name, truth in expected.items():
        values = np.array([getattr(each, name).value for each in found])
        errors = np.array([getattr(each, name).error for each in found])
        spread = values.std(axis=0, ddof=1)
        assert np.abs(values.mean(axis=0) - truth) == pytest.approx(np.zeros(2), abs=(4.0 * spread / 60**0.5).max())
        np.testing.assert_allclose(np.sqrt((errors**2).mean(axis=0)), spread, rtol=0.35)


def test_moments_with_as_many_probes_as_inputs_are_exact():
    model, inputs = network(), torch.randn(2, 24).double()
    exact = exact_singular_values(dense_jacobians(model, inputs))
    found = jacobian_moments(model, inputs, probes=24)
    assert found.is_exact
    assert found.num_singular_values == 20
    assert found.mean_square.value == pytest.approx((exact**2).mean(1))
    assert found.mean_fourth.value == pytest.approx((exact**4).mean(1))
    assert found.relative_variance.value == pytest.approx((exact**4).mean(1) / (exact**2).mean(1) ** 2 - 1.0)
    assert found.relative_variance.error.tolist() == [0.0, 0.0]


def test_one_probe_has_no_error():
    found = jacobian_moments(network(), torch.randn(1, 24).double(), probes=1)
    assert np.isnan(found.sum_of_squares.error).all()
    with pytest.raises(ValueError, match="at least 1 probe"):
        jacobian_moments(network(), torch.randn(1, 24).double(), probes=0)


def test_the_partial_jacobian_norm():
    model, inputs = network(), torch.randn(2, 24).double()
    hidden = model[:4](inputs).detach()
    exact = (dense_jacobians(model[4:6], hidden) ** 2).sum((1, 2)) / 24
    found = [partial_jacobian_norm(model, inputs, layer="3", output="5", seed=seed) for seed in range(30)]
    values = np.array([each.value for each in found])
    assert np.abs(values.mean(axis=0) - exact).max() < 4.0 * values.std(axis=0).max() / 30**0.5
    np.testing.assert_allclose(np.mean([each.error for each in found], axis=0), values.std(axis=0), rtol=0.35)


def test_the_partial_jacobian_norm_of_a_critical_network_is_one():
    torch.manual_seed(0)
    layers = [nn.Linear(400, 400, bias=False) for _ in range(4)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=(2.0 / 400) ** 0.5)
    model = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])
    found = partial_jacobian_norm(model, torch.randn(8, 400), layer="1", output="7")
    assert found.value.mean() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (12, 12)])
def test_bidiagonalisation_to_the_end_is_exact(shape):
    operator = Matrices(np.random.default_rng(0).normal(size=shape), with_singular_values([2.0, 2.0, 1.0], *shape))
    nodes, weights = golub_kahan(operator, 99, np.random.default_rng(1))
    exact = exact_singular_values(operator.matrices)
    np.testing.assert_allclose(nodes[0], exact[0], rtol=1e-9)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    # The second sample's space ends early: two values that are not zero, each once, and what is at zero.
    heavy = nodes[1][weights[1] > 1e-12]
    assert np.unique(heavy.round(9)).tolist() == [0.0, 1.0, 2.0]


def test_a_gauss_quadrature_has_the_moments_of_its_direction():
    """m nodes give the first 2 m moments exactly: v' (J'J)^k v."""
    matrix = np.random.default_rng(0).normal(size=(40, 40)) / 40**0.5
    nodes, weights = golub_kahan(Matrices(matrix), 5, np.random.default_rng(1))
    start = np.random.default_rng(1).standard_normal((1, 40))[0]
    start /= np.linalg.norm(start)
    for power in range(1, 9):
        exact = start @ np.linalg.matrix_power(matrix.T @ matrix, power) @ start
        assert (nodes[0] ** (2 * power)) @ weights[0] == pytest.approx(exact, rel=1e-9)


def test_lanczos_and_the_matrix_give_the_same_distribution():
    model, inputs = network(3, 60), torch.randn(2, 60).double()
    dense = jacobian_spectrum(model, inputs)
    lanczos = jacobian_spectrum(model, inputs, method="lanczos", probes=20, num_nodes=30)
    assert (dense.method, lanczos.method) == ("dense", "lanczos")
    for function in (lambda s: s**2, lambda s: s**4, np.sqrt, lambda s: np.exp(-s)):
        exact, found = dense.mean_of(function), lanczos.mean_of(function)
        assert (np.abs(found.value - exact.value) <= 4.0 * found.error).all()
        assert (found.error > 0.0).all()
    np.testing.assert_allclose(lanczos.largest, dense.largest, rtol=1e-6)
    middle = float(np.median(dense.singular_values))
    np.testing.assert_allclose(lanczos.share_below(middle).value, dense.share_below(middle).value, atol=0.1)


def test_zeros_are_told_from_small_values():
    model = nn.Sequential(nn.Linear(40, 40, bias=False), nn.ReLU(), nn.Linear(40, 40, bias=False))
    inputs = torch.randn(3, 40)
    off = (model[0](inputs) <= 0).double().mean(1)
    found = jacobian_spectrum(model, inputs).share_of_zeros()
    np.testing.assert_allclose(found.value, off, atol=1e-9)


@pytest.mark.parametrize("arguments", [dict(method="svd"), dict(probes=0), dict(num_nodes=0)])
def test_impossible_spectra_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1 probe and node"):
        jacobian_spectrum(nn.Linear(2, 2), torch.ones(1, 2), **arguments)


@pytest.mark.parametrize("arguments", [dict(k=0), dict(which="middle")])
def test_impossible_singular_values_are_refused(arguments):
    with pytest.raises(ValueError, match="'largest' or 'smallest'"):
        singular_values(nn.Linear(2, 2), torch.ones(1, 2), **arguments)


def test_estimates_print_with_their_errors():
    assert str(Estimate(np.array([1.0, 2.5]), np.array([0.125, 0.5]))) == "1 ± 0.12, 2.5 ± 0.5"
    assert isinstance(jacobian_spectrum(nn.Linear(2, 2), torch.ones(1, 2)), JacobianSpectrum)
