"""Gains far outside of float32, against closed forms and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headwater.lab.ensembles import measure_ensemble
from headwater.lab.ensembles.scaling import mean_absolutes, norms, recentred
from headwater.networks import NetworkSpec
from tests.oracles.ensembles import measure_slowly

INPUTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))


def deep(**fields):
    return NetworkSpec(**dict(depth=200, width=8, num_inputs=6, num_outputs=2) | fields)


def oracle(spec):
    layers = [(f"layers.{index}", f"layers.{index}.linear.weight") for index in range(spec.depth)]
    cotangent = torch.ones(4, 2)
    return measure_slowly(spec, [0, 1], INPUTS, [*layers, ("head", "head.weight")], cotangent=cotangent)


def assert_agree(measured, expected):
    np.testing.assert_allclose(measured.gain_decades, expected.gain_decades, rtol=0.0, atol=2e-4)
    np.testing.assert_allclose(measured.activation_rms, expected.activation_rms, rtol=1e-4)
    np.testing.assert_allclose(measured.weight_gradient_norm, expected.weight_gradient_norm, rtol=1e-3)
    np.testing.assert_allclose(measured.weight_gradient_mean_abs, expected.weight_gradient_mean_abs, rtol=1e-3)


@pytest.mark.parametrize("method", ["batched", "vmap", "loop"])
def test_200_sigmoid_layers_have_the_decades_of_float64(method):
    spec = deep(activation="sigmoid")
    expected = oracle(spec)
    assert expected.gain_decades[0, 0] < -150
    assert_agree(measure_ensemble(spec, [0, 1], INPUTS, cotangent=torch.ones(4, 2), method=method), expected)


@pytest.mark.parametrize("method", ["batched", "vmap", "loop"])
@pytest.mark.parametrize("weight_variance", [0.05, 30.0])
def test_a_signal_that_leaves_float32_either_way_is_that_of_float64(weight_variance, method):
    # Without biases the signal itself decays to 1e-130, or explodes to 1e+147: what float32 has of it is 0 or inf.
    spec = deep(activation="linear", initialisation="lecun", weight_variance=weight_variance)
    expected = oracle(spec)
    assert abs(np.log10(expected.activation_rms[0, -1])) > 100
    assert_agree(measure_ensemble(spec, [0, 1], INPUTS, cotangent=torch.ones(4, 2), method=method), expected)


def test_exponents_are_kept_beyond_float64():
    # 1000 layers multiply the gradient by 0.1 each, orthogonally: exactly 1e-1000 from the last hidden layer to the first.
    spec = deep(depth=1001, activation="linear", initialisation="orthogonal", weight_variance=0.01)
    measured = measure_ensemble(spec, [0, 1], INPUTS)
    decades = measured.gain_decades[:, 0] - measured.gain_decades[:, -2]
    np.testing.assert_allclose(decades, -1000.0, atol=1e-3)
    assert (measured.weight_gradient_norm[:, 0] == 0.0).all()  # what no float holds


def test_one_network_out_of_range_changes_no_other():
    spec = NetworkSpec(depth=2, width=1, num_inputs=1, num_outputs=1, activation="relu", initialisation="he")
    inputs = torch.ones(1, 1)
    many = measure_ensemble(spec, range(40), inputs)
    assert np.isneginf(many.gain_decades[:, 0]).any()  # dead ones, whose gradient is exactly zero
    for seed in range(40):
        np.testing.assert_allclose(
            measure_ensemble(spec, [seed], inputs).gain_decades[0], many.gain_decades[seed], rtol=1e-6
        )


def test_a_tiny_cotangent_is_no_small_gain():
    spec = deep(depth=3)
    measured = measure_ensemble(spec, [0], INPUTS, cotangent=torch.full((4, 2), 1e-38))
    plain = measure_ensemble(spec, [0], INPUTS, cotangent=torch.ones(4, 2))
    np.testing.assert_allclose(measured.gain_decades, plain.gain_decades, atol=1e-5)
    np.testing.assert_allclose(measured.weight_gradient_norm, 1e-38 * plain.weight_gradient_norm, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-44, 1e-25, 1.0, 1e25, 1e38])
def test_norms_are_right_at_any_size(size, dtype):
    stack = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]], dtype=dtype) * size
    exact = stack.double().abs().max().item() / 2.0
    np.testing.assert_allclose(norms(stack), [2.0 * exact, 2.0 * exact], rtol=1e-2 if size < 1e-40 else 1e-6)
    np.testing.assert_allclose(mean_absolutes(stack), [exact, exact / 2.0], rtol=1e-2 if size < 1e-40 else 1e-6)


def test_norms_of_float64_do_not_lose_their_squares():
    stack = torch.tensor([[3e-200, 4e-200], [3e200, 4e200], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(norms(stack), [5e-200, 5e200, 0.0, 1.0], rtol=1e-12)
    assert np.isinf(norms(torch.tensor([[np.inf, 1.0]], dtype=torch.float64)))
    assert np.isnan(norms(torch.tensor([[np.nan, 1.0]], dtype=torch.float64)))


def test_recentring_costs_no_bit_and_leaves_alone_what_needs_none():
    gradients = torch.randn(5, 3) * torch.tensor([1e-30, 1e-3, 0.0, float("inf"), 1e30])[:, None]
    centred, exponents = recentred(gradients, norms(gradients), np.zeros(5, dtype=np.int64))
    assert (exponents[[1, 2, 3]] == 0).all()
    assert torch.equal(centred[[1, 2]], gradients[[1, 2]])
    back = centred.double() * torch.from_numpy(2.0 ** exponents.astype(float))[:, None]
    assert torch.equal(back[[0, 4]], gradients[[0, 4]].double())
    assert ((norms(centred)[[0, 4]] >= 0.5) & (norms(centred)[[0, 4]] <= 1.0)).all()
