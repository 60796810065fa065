from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headwater.analysis import RatioFactors, gradient_parts, ratio_factors
from headwater.capture import Problem, observe
from headwater.networks import DeepNeuralNetwork


def _product(factors: RatioFactors) -> float:
    return factors.loss_slope * factors.backward_gain * factors.forward_signal * factors.alignment


def _notebook(*, use_shortcut, seed=123, batch=1):
    torch.manual_seed(seed)
    model = DeepNeuralNetwork([3, 3, 3, 3, 3, 1], use_shortcut)
    inputs = torch.tensor([[1.0, 0.0, -1.0]]) if batch == 1 else torch.randn(batch, 3)
    return observe(Problem(model, inputs, torch.zeros(len(inputs), 1), nn.MSELoss()))


@pytest.fixture(scope="module")
def notebook():
    return _notebook(use_shortcut=True), _notebook(use_shortcut=False)


def test_the_notebooks_1099_is_12_57_of_loss_slope_and_87_of_architecture(notebook):
    factors = ratio_factors(*notebook, "layers.0.0.weight")
    assert factors.ratio == pytest.approx(1099.77, rel=1e-4)
    assert factors.loss_slope == pytest.approx(12.57, rel=1e-3)
    assert factors.architecture == pytest.approx(87.46, rel=1e-3)
    assert factors.forward_signal == pytest.approx(1.0)
    assert factors.alignment == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("layer", range(5))
def test_for_one_sample_the_factors_are_exact_and_nothing_is_left_to_alignment(notebook, layer):
    factors = ratio_factors(*notebook, f"layers.{layer}.0.weight")
    assert _product(factors) == pytest.approx(factors.ratio, rel=1e-9)
    assert factors.alignment == pytest.approx(1.0, rel=1e-5)


def test_the_last_layers_263_is_mostly_loss_slope_and_a_larger_input(notebook):
    factors = ratio_factors(*notebook, "layers.4.0.weight")
    assert factors.ratio == pytest.approx(262.75, rel=1e-4)
    assert factors.backward_gain < 2.0 < factors.forward_signal


@given(seed=st.integers(0, 50), batch=st.integers(2, 9))
def test_for_a_batch_the_product_is_still_the_ratio(seed, batch):
    pair = [_notebook(use_shortcut=use, seed=seed, batch=batch) for use in (True, False)]
    factors = ratio_factors(*pair, "layers.1.0.weight")
    assert _product(factors) == pytest.approx(factors.ratio, rel=1e-9)
    assert math.isfinite(factors.alignment)


def test_a_parameter_that_is_not_there_is_named(notebook):
    with pytest.raises(ValueError, match=r"no gradient of a parameter 'layers\.9\.weight'"):
        ratio_factors(*notebook, "layers.9.weight")


def test_a_recording_without_a_slope_has_no_factors(notebook):
    torch.manual_seed(0)
    model = DeepNeuralNetwork([3, 3, 3, 3, 3, 1], use_shortcut=False)
    inputs = torch.tensor([[1.0, 0.0, -1.0]])
    flat = observe(Problem(model, inputs, loss=lambda output: (output * 0.0).sum()))
    with pytest.raises(ValueError, match="positive and finite, but the gradient of"):
        ratio_factors(notebook[0], flat, "layers.0.0.weight")


def test_the_parts_of_one_sample_multiply_to_the_gradient(notebook):
    for recording in notebook:
        parts = gradient_parts(recording, "layers.2.0.weight")
        assert parts.delta * parts.signal == pytest.approx(parts.weight_gradient, rel=1e-5)


def test_parts_of_a_reused_layer_are_those_of_the_call_that_is_asked_for():
    layer = nn.Linear(3, 3)
    recording = observe(Problem(nn.Sequential(layer, nn.Tanh(), layer), torch.ones(1, 3)))
    first, second = (call.depth for call in recording.calls if call.module == "0")
    assert gradient_parts(recording, "0.weight", first).signal == 1.0
    assert gradient_parts(recording, "0.weight", second).signal < 1.0
    assert gradient_parts(recording, "0.weight") == gradient_parts(recording, "0.weight", first)


def test_what_is_not_finite_is_no_part():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    recording = observe(Problem(model, torch.tensor([[1.0, math.inf]])))
    assert math.isnan(gradient_parts(recording, "0.weight").signal)
    with pytest.raises(ValueError, match="has a mean absolute value of nan"):
        ratio_factors(recording, recording, "0.weight")
