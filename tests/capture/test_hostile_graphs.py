"""Models whose autograd graphs are awkward: in place, reused, checkpointed, cut, differentiated twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwater.capture import record
from tests.capture.bit_identity import Case, forward_and_backward, recording_of, scalar_loss
from tests.capture.signals import called, has, notes, signals, stats
from tests.oracles.moments import assert_moments_match

REENTRANT = pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])


def batch() -> Tensor:
    return torch.randn(5, 4)


def batch_with_grad() -> Tensor:
    return torch.randn(5, 4, requires_grad=True)


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


class Lambda(nn.Module):
    """A module list whose forward is given as a function."""

    def __init__(self, forward: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = forward

    def forward(self, *args: Any) -> Any:
        return self.function(self.layers, *args)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Hardtanh, nn.SiLU, nn.Hardswish])
def test_an_inplace_activation_is_seen_as_if_it_were_not_in_place(activation: Any) -> None:
    def make(inplace: bool) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(nn.Linear(4, 6), activation(inplace=inplace), nn.Linear(6, 2))

    assert signals(recording_of(make(True), batch)) == signals(recording_of(make(False), batch))


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


def checkpointed(use_reentrant: bool | None, num_segments: int = 2, dropout: float = 0.0) -> nn.Module:
    """A Linear, then segments of Linear and Tanh, checkpointed or not (None)."""

    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        for segment in layers[1:]:
            x = segment(x) if use_reentrant is None else checkpoint(segment, x, use_reentrant=use_reentrant)
        return x

    segments = (nn.Sequential(nn.Linear(4, 4), nn.Dropout(dropout), nn.Tanh()) for _ in range(num_segments))
    return Lambda(forward, nn.Linear(4, 4), *segments)


@REENTRANT
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_checkpointed_segment_is_seen_as_if_it_were_not_checkpointed(use_reentrant: bool, dropout: float) -> None:
    plain = recording_of(lambda: checkpointed(None, dropout=dropout), batch)
    recording = recording_of(lambda: checkpointed(use_reentrant, dropout=dropout), batch)
    assert called(recording) == called(plain)
    assert signals(recording) == signals(plain)


@REENTRANT
def test_two_checkpointed_segments_may_share_a_module(use_reentrant: bool) -> None:
    def make(use_reentrant: bool | None) -> nn.Module:
        model = checkpointed(use_reentrant, num_segments=3)
        model.layers[2] = model.layers[1]
        return model

    plain = recording_of(lambda: make(None), batch)
    recording = recording_of(lambda: make(use_reentrant), batch)
    assert called(recording) == called(plain)
    assert signals(recording) == signals(plain)


@REENTRANT
def test_nested_checkpoints_are_seen_once(use_reentrant: bool) -> None:
    def make(use_reentrant: bool | None) -> nn.Module:
        inner = checkpointed(use_reentrant)
        if use_reentrant is None:
            return Lambda(lambda layers, x: layers[1](layers[0](x)), nn.Linear(4, 4), inner)
        return Lambda(
            lambda layers, x: checkpoint(layers[1], layers[0](x), use_reentrant=use_reentrant), nn.Linear(4, 4), inner
        )

    plain = recording_of(lambda: make(None), batch)
    recording = recording_of(lambda: make(use_reentrant), batch)
    assert called(recording) == called(plain)
    assert signals(recording, "activation", "weight_gradient") == signals(plain, "activation", "weight_gradient")
    assert signals(recording, "activation_gradient") == signals(plain, "activation_gradient")


@REENTRANT
def test_two_passes_through_a_checkpoint_in_one_recording_are_two_calls(use_reentrant: bool) -> None:
    def twice(case: Case) -> Any:
        return [forward_and_backward(case), forward_and_backward(case)]

    plain = recording_of(lambda: checkpointed(None), batch, step=twice)
    recording = recording_of(lambda: checkpointed(use_reentrant), batch, step=twice)
    assert called(recording) == called(plain)
    assert signals(recording, "activation_gradient") == signals(plain, "activation_gradient")


class Reversible(torch.autograd.Function):
    """Runs modules without a graph, and again, with one, in the backward pass; as Reformer and others do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return x + layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ctx.layer(x).backward(gradient)
        return gradient + x.grad, None


def test_a_forward_inside_a_hand_written_backward_is_not_a_second_call() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers[1:]:
            x = Reversible.apply(layers[0](x) if layer is layers[1] else x, layer)
        return x

    recording = recording_of(lambda: Lambda(forward, *(nn.Linear(4, 4) for _ in range(3))), batch)
    assert called(recording) == ["", "layers.0", "layers.1", "layers.2"]
    assert has(recording, "weight_gradient", "layers.1")


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


def test_a_double_backward_changes_nothing() -> None:
    def step(case: Case) -> Any:
        x = case.args[0]
        loss = scalar_loss(case.model(x))
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        gradient.pow(2).sum().backward()
        return loss, gradient

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), batch_with_grad, step=step)
    assert has(recording, "weight_gradient", "0")


def test_a_backward_that_builds_a_graph_changes_nothing() -> None:
    def step(case: Case) -> Any:
        loss = scalar_loss(case.model(*case.args))
        loss.backward(create_graph=True)
        penalty = sum(p.grad.pow(2).sum() for p in case.model.parameters())
        gradients = torch.autograd.grad(penalty, list(case.model.parameters()), allow_unused=True)
        for parameter in case.model.parameters():
            parameter.grad = None  # else they refer to one another in a cycle
        return gradients

    recording_of(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), batch, step=step)


def test_a_gradient_penalty_inside_the_forward_is_the_models_own_affair() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(layers[0](x).sum(), x, create_graph=True)
        return layers[1](gradient)

    recording = recording_of(
        lambda: Lambda(forward, nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1)), batch
    )
    assert called(recording) == ["", "layers.0", "layers.0.0", "layers.0.1", "layers.1"]


def test_the_gradient_of_this_pass_is_recorded_beside_one_that_was_there_before() -> None:
    def make() -> nn.Module:
        model = nn.Linear(4, 2)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 100.0)
        return model

    recording = recording_of(make, batch)
    torch.manual_seed(0)
    model, x = make(), batch()
    model.zero_grad()
    scalar_loss(model(x)).backward()
    assert_moments_match(stats(recording, "weight_gradient", "", item="weight"), model.weight.grad, rtol=1e-6)


def test_backward_twice_through_one_graph_is_recorded() -> None:
    def step(case: Case) -> Any:
        loss = scalar_loss(case.model(*case.args))
        loss.backward(retain_graph=True)
        loss.backward()

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)
    once = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch)
    summed, single = (stats(r, "weight_gradient", "0", item="weight") for r in (recording, once))
    assert summed.norm == pytest.approx(2 * single.norm, rel=1e-6)


def test_micro_batches_add_up_to_the_gradient_that_the_optimiser_sees() -> None:
    models = []

    def step(case: Case) -> Any:
        models.append(case.model)
        for part in case.args[0].split(2):
            scalar_loss(case.model(part)).backward()

    recording = recording_of(lambda: nn.Linear(4, 2), batch, step=step)
    assert_moments_match(stats(recording, "weight_gradient", "", item="weight"), models[-1].weight.grad, rtol=1e-6)
    assert called(recording) == ["", "", ""]


def test_an_optimiser_that_steps_between_two_passes_changes_nothing() -> None:
    def step(case: Case) -> Any:
        optimizer = torch.optim.AdamW(case.model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            forward_and_backward(case)
            optimizer.step()

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), batch, step=step)
    assert called(recording) == 3 * ["", "0", "1", "2"]


def test_an_optimiser_that_steps_inside_the_backward_changes_nothing() -> None:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        for parameter in model.parameters():
            optimizer = torch.optim.SGD([parameter], lr=0.1)
            parameter.register_post_accumulate_grad_hook(_stepping(optimizer))
        return model

    recording = recording_of(make, batch)
    assert len(recording.select("weight_gradient")) == 4


def _stepping(optimizer: torch.optim.Optimizer) -> Callable[[Tensor], None]:
    def step(_: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    return step


def test_gradients_asked_for_with_autograd_grad_are_seen_in_the_activations() -> None:
    def step(case: Case) -> Any:
        return torch.autograd.grad(scalar_loss(case.model(*case.args)), list(case.model.parameters()))

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), batch, step=step)
    assert has(recording, "activation_gradient", "0")


def test_a_backward_through_a_part_leaves_the_rest_without_gradients() -> None:
    def step(case: Case) -> Any:
        left, _ = case.model(*case.args)
        left.sum().backward()

    recording = recording_of(
        lambda: Lambda(lambda layers, x: (layers[0](x), layers[1](x)), nn.Linear(4, 2), nn.Linear(4, 2)),
        batch,
        step=step,
    )
    assert has(recording, "activation_gradient", "layers.0")
    assert not has(recording, "activation_gradient", "layers.1")
    assert [s.item for s in recording.select("activation_gradient", depth=0)] == ["0"]


def test_a_sum_gives_an_expanded_gradient_and_it_is_measured() -> None:
    recording = recording_of(
        lambda: nn.Linear(4, 300), batch, step=lambda case: case.model(*case.args).sum().backward()
    )
    gradient = stats(recording, "activation_gradient", "")
    assert (gradient.numel, gradient.norm) == (1500, pytest.approx(1500**0.5))


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


def test_saved_tensor_hooks_of_the_user_do_not_see_the_recorder() -> None:
    packed: list[list[torch.Size]] = []

    def step(case: Case) -> Any:
        packed.append([])

        def pack(tensor: Tensor) -> Tensor:
            packed[-1].append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return forward_and_backward(case)

    recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)
    assert packed[0] == packed[1]


def test_anomaly_mode_works_while_recording() -> None:
    def step(case: Case) -> Any:
        with torch.autograd.set_detect_anomaly(True):
            return forward_and_backward(case)

    recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)


def test_functional_layers_between_modules_are_part_of_the_flow() -> None:
    recording = recording_of(
        lambda: Lambda(lambda layers, x: layers[1](F.gelu(layers[0](x))), nn.Linear(4, 4), nn.Linear(4, 2)), batch
    )
    assert stats(recording, "input", "layers.1") != stats(recording, "activation", "layers.0")
    assert has(recording, "input_gradient", "layers.1")
    assert notes(recording) == ""
