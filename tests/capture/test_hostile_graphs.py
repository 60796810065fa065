"""Graphs that are awkward: in place, reused, tied, cut off, viewed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwater.capture import record
from headwater.recording import TensorStats
from tests.capture.bit_identity import (
    Case,
    recording_of,
    scalar_loss,
)
from tests.capture.hostile_models import Lambda, batch, images
from tests.capture.signals import called, has, notes, signals, stats
from tests.oracles.moments import assert_moments_match


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Hardtanh, nn.SiLU, nn.Hardswish])
def test_an_inplace_activation_is_seen_as_if_it_were_not_in_place(activation: Any) -> None:
    def make(inplace: bool) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(nn.Linear(4, 6), activation(inplace=inplace), nn.Linear(6, 2))

    # Not to the last bit: in place, ELU's derivative is computed from its output, which rounds differently.
    changed, kept = (signals(recording_of(make(inplace), batch)) for inplace in (True, False))
    assert changed.keys() == kept.keys()
    for key, stats_in_place in changed.items():
        assert_same_but_for_rounding(stats_in_place, kept[key])


def assert_same_but_for_rounding(a: TensorStats, b: TensorStats) -> None:
    assert (a.numel, a.nan_count, a.inf_count, a.zero_count) == (b.numel, b.nan_count, b.inf_count, b.zero_count)
    assert (a.sum_abs, a.sum_squares, a.max_abs) == pytest.approx((b.sum_abs, b.sum_squares, b.max_abs), rel=1e-6)
    assert a.sum == pytest.approx(b.sum, abs=1e-6 * b.sum_abs)


def test_inplace_dropout_after_convolution_and_batch_norm_is_seen_as_if_it_were_not_in_place() -> None:
    def make(inplace: bool) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=inplace),
            nn.Conv2d(4, 4, 3),
            nn.Dropout(0.3, inplace=inplace),
            nn.ReLU6(inplace=inplace),
        )

    assert signals(recording_of(make(True), images)) == signals(recording_of(make(False), images))


def test_a_chain_of_inplace_changes_of_one_tensor_is_seen_step_by_step() -> None:
    def make(inplace: bool) -> Callable[[], nn.Module]:
        steps = [
            (lambda _, x: x.add_(1), lambda _, x: x.add(1)),
            (lambda _, x: x.mul_(3), lambda _, x: x.mul(3)),
            (lambda _, x: x.clamp_(-2, 2), lambda _, x: x.clamp(-2, 2)),
        ]
        return lambda: nn.Sequential(nn.Linear(4, 6), *(Lambda(step[0 if inplace else 1]) for step in steps))

    assert signals(recording_of(make(True), batch)) == signals(recording_of(make(False), batch))


def test_an_inplace_shortcut_is_seen_as_if_it_were_not_in_place() -> None:
    def in_place(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        branch = layers[1](x)
        branch += x
        return layers[2](branch)

    def out_of_place(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        return layers[2](layers[1](x) + x)

    def make(forward: Any) -> Callable[[], nn.Module]:
        return lambda: Lambda(forward, nn.Linear(4, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 6)), nn.Linear(6, 2))

    assert signals(recording_of(make(in_place), batch)) == signals(recording_of(make(out_of_place), batch))


def test_a_branch_that_is_added_to_in_place_keeps_its_own_statistics() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        return layers[0](x).add_(x).mul_(2).relu_()

    recording = recording_of(lambda: Lambda(forward, nn.Linear(4, 4)), batch)
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), batch()
    assert_moments_match(stats(recording, "activation", "layers.0"), layer(x), rtol=1e-6)


def test_an_input_that_is_changed_in_place_is_measured_before() -> None:
    recording = recording_of(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), batch)
    torch.manual_seed(0)
    nn.Linear(4, 2)
    assert_moments_match(stats(recording, "input", "0"), batch(), rtol=1e-6)
    assert stats(recording, "activation", "0").zero_count > 0


def test_a_reused_module_is_seen_once_per_call() -> None:
    def make() -> nn.Module:
        shared = nn.Linear(4, 4)
        return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), shared)

    recording = recording_of(make, batch)
    assert called(recording) == ["", "0", "1", "0", "3", "0"]
    assert [call.call for call in recording.calls if call.module == "0"] == [0, 1, 2]
    torch.manual_seed(0)
    model, x = make(), batch()
    outputs = [layer_input := x]
    for layer in model:
        layer_input = layer(layer_input)
        layer_input.retain_grad()
        outputs.append(layer_input)
    scalar_loss(outputs[-1]).backward()
    for call, position in enumerate((1, 3, 5)):
        assert_moments_match(stats(recording, "activation", "0", call), outputs[position], rtol=1e-6)
        assert_moments_match(stats(recording, "activation_gradient", "0", call), outputs[position].grad, rtol=1e-6)
    assert_moments_match(stats(recording, "weight_gradient", "0", item="weight"), model[0].weight.grad, rtol=1e-6)


def test_tied_weights_are_one_parameter_with_the_sum_of_their_gradients() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 9, bias=False))
        model[2].weight = model[0].weight
        return model

    recording = recording_of(make, lambda: torch.randint(0, 9, (5,)))
    assert [parameter.name for parameter in recording.parameters] == ["0.weight"]
    torch.manual_seed(0)
    model, x = make(), torch.randint(0, 9, (5,))
    scalar_loss(model(x)).backward()
    assert_moments_match(stats(recording, "weight_gradient", "0"), model[0].weight.grad, rtol=1e-6)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        sign = x.sign()
        ctx.mark_non_differentiable(sign)
        ctx.set_materialize_grads(False)
        return x * x, sign

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> Any:
        return None if gradient is None else 2 * ctx.saved_tensors[0] * gradient


class DoubleInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def test_custom_functions_are_observed_like_any_other() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return Square.apply(x)

    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return DoubleInPlace.apply(x)

    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        square, sign = layers[1](layers[0](x))
        return layers[2](square) + sign

    recording = recording_of(lambda: Lambda(forward, nn.Linear(4, 4), Squared(), Doubled()), batch)
    assert has(recording, "activation_gradient", "layers.0")
    assert [s.item for s in recording.select("activation_gradient", module="layers.1")] == ["0"]
    assert has(recording, "input_gradient", "layers.2")


def test_a_detached_branch_has_activations_and_no_gradients() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        return layers[1](layers[0](x).detach()) + layers[2](x)

    recording = recording_of(lambda: Lambda(forward, *(nn.Linear(4, 4) for _ in range(3))), batch)
    assert has(recording, "activation", "layers.0")
    assert not has(recording, "activation_gradient", "layers.0")
    assert not has(recording, "weight_gradient", "layers.0")
    assert not has(recording, "input_gradient", "layers.1")
    assert [p.received_gradient for p in recording.parameters] == [False, False, True, True, True, True]


def test_a_no_grad_island_is_marked() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = layers[1](layers[0](x))
        return layers[2](x)

    recording = recording_of(lambda: Lambda(forward, *(nn.Linear(4, 4) for _ in range(3))), batch)
    assert [call.grad_enabled for call in recording.calls] == [True, False, False, True]
    assert [call.output_requires_grad for call in recording.calls] == [True, False, False, True]
    assert not has(recording, "activation_gradient", "layers.1")


def test_an_inference_mode_island_is_observed() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        with torch.inference_mode():
            x = layers[0](x)
        return layers[1](x.clone())

    recording = recording_of(lambda: Lambda(forward, nn.Linear(4, 4), nn.Linear(4, 4)), batch)
    assert has(recording, "activation", "layers.0")
    assert has(recording, "weight_gradient", "layers.1")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_gradients_is_observed_forward(mode: Any) -> None:
    def step(case: Case) -> Any:
        with mode():
            return case.model(*case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), batch, step=step)
    assert called(recording) == ["", "0", "1"]
    assert recording.context.cotangent == "none"
    assert has(recording, "activation", "1")


def test_recording_inside_inference_mode_is_possible() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with torch.inference_mode(), record(model) as recorder:
        model(batch())
    model(batch()).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]


@pytest.mark.parametrize("name", ["chunk", "split", "unbind", "transpose", "select", "view_as_real", "slice"])
def test_modules_that_return_views_are_observed(name: str) -> None:
    views: dict[str, Callable[[Tensor], Any]] = {
        "chunk": lambda x: x.chunk(2, dim=1),
        "split": lambda x: list(x.split(3, dim=1)),
        "unbind": lambda x: x.unbind(1),
        "transpose": lambda x: x.t(),
        "select": lambda x: x[:, 1],
        "view_as_real": lambda x: torch.view_as_complex(x.reshape(-1, 2)),
        "slice": lambda x: x[1:, ::2],
    }
    recording = recording_of(
        lambda: Lambda(lambda layers, x: layers[1](layers[0](x)), nn.Linear(4, 6), Lambda(lambda _, x: views[name](x))),
        batch,
    )
    assert has(recording, "activation_gradient", "layers.1")
    assert has(recording, "activation_gradient", "layers.0")


def test_a_view_changed_in_place_after_its_module_returned_changes_nothing() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        hidden = layers[0](x)
        first = layers[1](hidden)
        first.mul_(2)
        return layers[2](hidden)

    recording = recording_of(
        lambda: Lambda(forward, nn.Linear(4, 6), Lambda(lambda _, x: x[:, :3]), nn.Linear(6, 2)), batch
    )
    torch.manual_seed(0)
    layer = nn.Linear(4, 6)
    nn.Linear(6, 2)
    assert_moments_match(stats(recording, "activation", "layers.0"), layer(batch()), rtol=1e-6)


def test_functional_layers_between_modules_are_part_of_the_flow() -> None:
    recording = recording_of(
        lambda: Lambda(lambda layers, x: layers[1](F.gelu(layers[0](x))), nn.Linear(4, 4), nn.Linear(4, 2)), batch
    )
    assert stats(recording, "input", "layers.1") != stats(recording, "activation", "layers.0")
    assert has(recording, "input_gradient", "layers.1")
    assert notes(recording) == ""


def test_a_gradient_that_an_inplace_change_of_a_view_hides_is_named() -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Flatten(0), nn.ReLU(inplace=True)), batch)
    assert has(recording, "activation_gradient", "0")
    assert not has(recording, "activation_gradient", "1")
    assert "Flatten" in notes(recording)


def test_a_view_whose_base_was_changed_is_survived_and_named() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        columns = layers[1](x)
        with torch.no_grad():
            x.add_(1)
            layers[2](columns[0])
        return x

    recording = recording_of(
        lambda: Lambda(forward, nn.Linear(4, 4), Lambda(lambda _, x: x.unbind(1)), nn.Tanh()), batch, fully=False
    )
    assert "not observed" in notes(recording)
    assert has(recording, "activation_gradient", "layers.0")
