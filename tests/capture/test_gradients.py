"""Recorded gradients against plain autograd in float64: at every output, and each call's own share at its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from headwater.capture import Problem, observe, record
from headwater.recording import Recording
from tests.capture.bit_identity import scalar_loss
from tests.capture.gradient_models import MODELS, chain, keeps_an_intermediate, shortcuts_in_modules
from tests.capture.hostile_models import Lambda
from tests.capture.signals import has, signals, stats
from tests.oracles.gradients import input_gradients, seen_calls, tensors_of
from tests.oracles.moments import assert_moments_match, exact_moments, exact_norm


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


EVERY_MODEL = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
WITH_AND_WITHOUT = pytest.mark.parametrize(
    "input_requires_grad", [True, False], ids=["input with grad", "input without"]
)


def recorded(model: nn.Module, x: Tensor) -> Recording:
    with record(model) as recorder:
        scalar_loss(model(x)).backward()
    return recorder.recording


@WITH_AND_WITHOUT
@EVERY_MODEL
def test_activation_gradients_are_those_of_retain_grad(
    make: Callable[[], nn.Module], input_requires_grad: bool
) -> None:
    model, x = make(), torch.randn(5, 4, requires_grad=input_requires_grad)
    recording = recorded(model, x)
    model.zero_grad()
    x.grad = None
    for seen in seen_calls(model, lambda: scalar_loss(model(x))):
        expected = [t for t in tensors_of(seen.output) if t.requires_grad and t.grad is not None]
        found = [s for s in recording.select("activation_gradient", module=seen.module) if s.call == seen.call]
        assert len(found) == len(expected), (seen.module, seen.call)
        for signal, tensor in zip(found, expected, strict=True):
            assert_moments_match(signal.stats, tensor.grad, rtol=1e-12)


@WITH_AND_WITHOUT
@EVERY_MODEL
def test_input_gradients_are_the_calls_own_share(make: Callable[[], nn.Module], input_requires_grad: bool) -> None:
    model, x = make(), torch.randn(5, 4, requires_grad=input_requires_grad)
    recording = recorded(model, x)
    model.zero_grad()
    x.grad = None
    for seen in seen_calls(model, lambda: scalar_loss(model(x))):
        expected = [gradient for _, gradient in input_gradients(seen) if gradient is not None]
        found = [s for s in recording.select("input_gradient", module=seen.module) if s.call == seen.call]
        assert len(found) == len(expected), (seen.module, seen.call, found, expected)
        for signal, gradient in zip(found, expected, strict=True):
            assert_moments_match(signal.stats, gradient, rtol=1e-12)


def test_what_is_read_past_a_childs_output_counts_once() -> None:
    model, x = keeps_an_intermediate(), torch.randn(5, 4, requires_grad=True)
    recording = recorded(model, x)
    assert_moments_match(stats(recording, "input_gradient", ""), x.grad, rtol=1e-12)


@EVERY_MODEL
def test_weight_gradients_and_signals_are_right(make: Callable[[], nn.Module]) -> None:
    model, x = make(), torch.randn(5, 4)
    recording = recorded(model, x)
    for name, parameter in model.named_parameters():
        found = [s.stats for s in recording.select("weight_gradient") if s.parameter == name]
        assert len(found) == 1
        assert_moments_match(found[0], parameter.grad, rtol=1e-12)
    model.zero_grad()
    for seen in seen_calls(model, lambda: scalar_loss(model(x))):
        activations = [s for s in recording.select("activation", module=seen.module) if s.call == seen.call]
        inputs = [s for s in recording.select("input", module=seen.module) if s.call == seen.call]
        for signal, tensor in zip(activations, tensors_of(seen.output), strict=True):
            assert_moments_match(signal.stats, tensor, rtol=1e-12)
        for signal, tensor in zip(inputs, tensors_of((seen.args, seen.kwargs)), strict=True):
            assert_moments_match(signal.stats, tensor, rtol=1e-12)


def test_gradients_carry_the_number_of_their_forward_tensor() -> None:
    model, x = shortcuts_in_modules(), torch.randn(5, 4, requires_grad=True)
    recording = recorded(model, x)
    for forward, backward in (("activation", "activation_gradient"), ("input", "input_gradient")):
        numbers = {(s.depth, s.item): s.tensor for s in recording.select(forward)}
        for signal in recording.select(backward):
            assert signal.tensor == numbers[signal.depth, signal.item]


def test_one_calls_output_is_the_next_ones_input() -> None:
    recording = recorded(chain(), torch.randn(5, 4))
    leaves = [call.depth for call in recording.calls if call.module]
    outputs = [recording.select("activation", depth=depth)[0].tensor for depth in leaves]
    inputs = [recording.select("input", depth=depth)[0].tensor for depth in leaves]
    assert outputs[:-1] == inputs[1:]
    assert recording.select("activation", depth=0)[0].tensor == outputs[-1]
    assert recording.select("input", depth=0)[0].tensor == inputs[0]


def test_gains_of_a_chain_multiply_to_the_whole() -> None:
    model, x = chain(), torch.randn(5, 4, requires_grad=True)
    recording = recorded(model, x)
    product = 1.0
    for layer in range(len(model)):
        product *= (
            stats(recording, "input_gradient", str(layer)).norm
            / stats(recording, "activation_gradient", str(layer)).norm
        )
    whole = stats(recording, "input_gradient", "").norm / stats(recording, "activation_gradient", "").norm
    assert product == pytest.approx(whole, rel=1e-12)


def test_an_exactly_zero_gradient_is_recorded_as_zero() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
    recording = recorded(model, torch.randn(5, 4))
    assert stats(recording, "activation_gradient", "0").is_zero
    assert stats(recording, "weight_gradient", "0", item="weight").is_zero
    assert recording.parameters[0].received_gradient


def test_a_gradient_of_none_is_no_signal() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x * 3

    recording = recorded(
        Lambda(lambda layers, x: layers[1](layers[0](x))[0], nn.Linear(4, 4), Two()), torch.randn(5, 4)
    )
    assert [s.item for s in recording.select("activation_gradient", module="layers.1")] == ["0"]


@settings(max_examples=25)
@given(st.floats(1e-3, 1e3), st.booleans())
def test_scaling_the_loss_scales_every_gradient(factor: float, negative: bool) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    model, x = shortcuts_in_modules(), torch.randn(5, 4)
    factor = -factor if negative else factor

    def loss(output: Tensor) -> Tensor:
        return output.pow(2).sum()

    base = observe(Problem(model, x, loss=loss))
    scaled = observe(Problem(model, x, loss=lambda output: loss(output) * factor))
    kinds = ("activation_gradient", "input_gradient", "weight_gradient")
    expected, found = signals(base, *kinds), signals(scaled, *kinds)
    assert expected.keys() == found.keys()
    for key, stats_ in expected.items():
        assert found[key].norm == pytest.approx(abs(factor) * stats_.norm, rel=1e-9)
        assert found[key].mean_abs == pytest.approx(abs(factor) * stats_.mean_abs, rel=1e-9)
        assert found[key].zero_count == stats_.zero_count
    assert signals(base, "activation", "input", "weight") == signals(scaled, "activation", "input", "weight")


@pytest.mark.parametrize("decades", [-35, -30, -20, -12, -6, 6, 12, 20, 30])
def test_observe_measures_gradients_past_the_range_of_float32(decades: int) -> None:
    torch.set_default_dtype(torch.float32)
    model = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Sigmoid())), nn.Linear(8, 1))
    x, factor = torch.randn(5, 8), 10.0**decades
    base = signals(observe(Problem(model, x, loss=torch.Tensor.sum)), "activation_gradient", "weight_gradient")
    scaled = observe(Problem(model, x, loss=lambda output: factor * output.sum()))
    for key, stats_ in signals(scaled, "activation_gradient", "weight_gradient").items():
        assert stats_.norm == pytest.approx(factor * base[key].norm, rel=1e-4), key
    assert scaled.context.loss == pytest.approx(factor * model(x).sum().item(), rel=1e-4)


def test_observe_with_a_mean_squared_error_is_plain_autograd() -> None:
    model, x, targets = chain(), torch.randn(5, 4), torch.randn(5, 1)
    recording = observe(Problem(model, x, targets, nn.MSELoss()))
    loss = nn.functional.mse_loss(model(x), targets)
    loss.backward()
    assert recording.context.loss == loss.item()
    assert recording.context.cotangent == "loss"
    for name, parameter in model.named_parameters():
        found = next(s.stats for s in recording.select("weight_gradient") if s.parameter == name)
        assert_moments_match(found, parameter.grad, rtol=1e-12)


def test_random_cotangents_are_standard_normal_and_differ_from_seed_to_seed() -> None:
    model = nn.Linear(4, 1000)
    first, second = (observe(Problem(model, torch.ones(50, 4)), seed=seed) for seed in (0, 1))
    cotangent = stats(first, "activation_gradient", "")
    assert first.context.cotangent == "random"
    assert cotangent.rms == pytest.approx(1.0, abs=0.02)
    assert cotangent.mean == pytest.approx(0.0, abs=0.02)
    assert cotangent != stats(second, "activation_gradient", "")


def test_the_norm_is_the_norm() -> None:
    model, x = nn.Linear(4, 4), torch.randn(5, 4)
    recording = recorded(model, x)
    weight = stats(recording, "weight_gradient", "", item="weight")
    assert weight.norm == pytest.approx(model.weight.grad.norm().item(), rel=1e-12)
    assert weight.norm == pytest.approx(exact_norm(exact_moments(model.weight.grad)), rel=1e-12)
    assert weight.mean_abs == pytest.approx(model.weight.grad.abs().mean().item(), rel=1e-12)
    assert math.isclose(weight.rms, model.weight.grad.norm().item() / 4, rel_tol=1e-12)
    assert has(recording, "weight_gradient", "")
