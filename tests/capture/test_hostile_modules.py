"""Modules with unusual habits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from headwater.capture import record
from tests.capture.bit_identity import (
    Case,
    recording_of,
)
from tests.capture.hostile_models import Lambda, batch, small_net
from tests.capture.signals import called, has, notes, stats
from tests.oracles.moments import assert_moments_match


def _double_gradient(parameter: Tensor) -> None:
    parameter.grad.mul_(2)


def test_a_frozen_part_is_observed_without_weight_gradients() -> None:
    def make() -> nn.Module:
        model = small_net()
        model[0].requires_grad_(False)
        return model

    recording = recording_of(make, batch)
    assert not has(recording, "weight_gradient", "0")
    assert not has(recording, "activation_gradient", "0")
    assert has(recording, "activation_gradient", "2")
    assert [p.requires_grad for p in recording.parameters] == [False, False, True, True]


def test_a_parameter_that_thaws_while_recording_is_not_silently_lost() -> None:
    model = small_net().requires_grad_(False)
    with record(model) as recorder:
        model[2].requires_grad_(True)
        model(batch()).sum().backward()
    weight = next(p for p in recorder.recording.parameters if p.name == "2.weight")
    assert weight.received_gradient or "2.weight" in notes(recorder.recording)


def test_a_submodule_whose_forward_is_called_directly_is_named() -> None:
    recording = recording_of(lambda: Lambda(lambda layers, x: layers[0].forward(x), nn.Linear(4, 2)), batch)
    assert called(recording) == [""]
    assert "'layers.0'" in notes(recording)
    assert has(recording, "weight_gradient", "layers.0")


def test_an_unused_module_is_named() -> None:
    recording = recording_of(lambda: Lambda(lambda layers, x: layers[0](x), nn.Linear(4, 2), nn.Linear(4, 2)), batch)
    assert "'layers.1'" in notes(recording)
    assert [p.received_gradient for p in recording.parameters] == [True, True, False, False]


def test_a_module_that_returns_a_parameter_is_observed() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.randn(4))

        def forward(self) -> Tensor:
            return self.value

    recording = recording_of(lambda: Lambda(lambda layers, x: layers[0]() * x, Constant()), batch)
    assert_moments_match(stats(recording, "weight_gradient", "layers.0"), _gradient_of_constant(), rtol=1e-6)
    assert has(recording, "activation", "layers.0")


def _gradient_of_constant() -> Tensor:
    torch.manual_seed(0)
    value = torch.randn(4)
    x = batch()
    value.requires_grad_()
    slope = torch.linspace(-1.0, 2.0, 20, dtype=torch.float64).float()
    return torch.autograd.grad(((value * x).reshape(-1) * slope).sum(), value)[0]


def test_scalar_parameters_are_recorded() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), Scale()), batch)
    assert stats(recording, "weight_gradient", "1").numel == 1


def test_modules_that_return_what_they_got_are_observed() -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Dropout(0.5), nn.Identity()).eval(), batch
    )
    tensors = {s.tensor for s in recording.select("activation")}
    assert len(tensors) == 1
    assert len({s.stats for s in recording.select("activation_gradient")}) == 1
    assert len(recording.select("activation_gradient")) == 5


def test_a_model_that_returns_its_input_is_observed() -> None:
    recording = recording_of(nn.Identity, lambda: torch.randn(3, requires_grad=True))
    assert has(recording, "activation", "")


def test_a_module_that_changes_the_model_while_it_runs_is_survived_and_named() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        layers.append(nn.Linear(4, 4))
        return layers[1](layers[0](x))

    recording = recording_of(lambda: Lambda(forward, nn.Linear(4, 4)), batch)
    assert has(recording, "activation_gradient", "layers.0")
    assert "'layers.1'" in notes(recording)


def test_a_module_that_is_replaced_while_recording_is_survived() -> None:
    model = small_net()
    with record(model) as recorder:
        model(batch()).sum().backward()
        model[0] = nn.Linear(4, 6)
        model(batch()).sum().backward()
    assert called(recorder.recording).count("2") == 2
    assert "'0'" in notes(recorder.recording)


def test_a_parameter_that_is_replaced_while_recording_is_survived() -> None:
    model = small_net()
    with record(model) as recorder:
        model[0].weight = nn.Parameter(torch.ones(6, 4))
        model(batch()).sum().backward()
    recorded = next(p for p in recorder.recording.parameters if p.name == "0.weight")
    assert recorded.received_gradient or "0.weight" in notes(recorder.recording)


def test_modules_with_names_that_look_odd_are_recorded() -> None:
    recording = recording_of(_OddNames, batch)
    assert {"a b", "ünï", "0"} <= set(called(recording))


class _OddNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("a b", "ünï", "0"):
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def test_one_module_under_two_names_is_recorded_under_the_first() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    recording = recording_of(Twice, batch)
    assert called(recording) == ["", "first", "first"]


def test_a_module_that_calls_itself_is_seen_call_by_call() -> None:
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, times: int = 3) -> Tensor:
            return self(self.layer(x).tanh(), times - 1) if times else x

    recording = recording_of(Recursive, batch)
    assert called(recording) == ["", "layer", "", "layer", "", "layer", ""]
    assert [call.parent for call in recording.calls] == [-1, 0, 0, 2, 2, 4, 4]


def test_a_submodule_can_be_recorded_by_itself() -> None:
    model = nn.Sequential(small_net(), nn.Linear(2, 2))
    with record(model[0]) as recorder:
        model(batch()).sum().backward()
    assert called(recorder.recording) == ["", "0", "1", "2"]
    assert has(recorder.recording, "activation_gradient", "")


def test_a_module_that_is_not_registered_is_named() -> None:
    hidden = [nn.Linear(4, 4)]
    recording = recording_of(lambda: Lambda(lambda layers, x: hidden[0](layers[0](x)), nn.Linear(4, 4)), batch)
    assert "A Linear that is not part of the model" in notes(recording)
    hidden[0].zero_grad()


def test_a_loss_module_made_in_the_forward_is_not_worth_a_note() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        return nn.MSELoss()(layers[0](x), x)

    assert notes(recording_of(lambda: Lambda(forward, nn.Linear(4, 4)), batch)) == ""


def test_a_modules_call_can_be_overridden() -> None:
    class OwnCall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def __call__(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return self.layer(x) * scale

    recording = recording_of(lambda: nn.Sequential(OwnCall(), nn.Linear(4, 2)), batch)
    assert "0.layer" in called(recording)


def test_keyword_arguments_are_inputs_too() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
            return self.layer(left) * right

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ByName()
            self.scale = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(right=self.scale(x), left=x)

    recording = recording_of(Caller, lambda: torch.randn(5, 4, requires_grad=True))
    assert {signal.item for signal in recording.select("input", module="inner")} == {"left", "right"}
    assert {signal.item for signal in recording.select("input_gradient", module="inner")} == {"left", "right"}


def test_dropout_draws_the_same_numbers() -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5), nn.Linear(40, 2)), batch)
    assert stats(recording, "activation", "1").zero_count > 0


def test_distributed_data_parallel_is_recorded(tmp_path: Any) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(small_net())
        plain = small_net()
        plain.load_state_dict(wrapped.module.state_dict())
        x = batch()
        with record(wrapped) as recorder:
            wrapped(x).sum().backward()
        plain(x).sum().backward()
    finally:
        dist.destroy_process_group()
    assert called(recorder.recording) == ["", "module", "module.0", "module.1", "module.2"]
    for (name, parameter), (_, expected) in zip(wrapped.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(parameter.grad, expected.grad)
        found = [s.stats for s in recorder.recording.select("weight_gradient") if s.parameter == name]
        assert_moments_match(found[0], expected.grad, rtol=1e-6)


def test_a_grad_scaler_changes_nothing() -> None:
    def step(case: Case) -> Any:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
        scaler.scale(case.model(*case.args).pow(2).mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    recording = recording_of(small_net, batch, step=step)
    assert has(recording, "weight_gradient", "0")
    assert notes(recording) == ""


def test_a_model_that_changes_its_dtype_while_recording_keeps_its_weight_gradients() -> None:
    def step(case: Case) -> Any:
        case.model.double()
        return case.model(case.args[0].double()).sum().backward()

    recording = recording_of(small_net, batch, step=step)
    assert len(recording.select("weight_gradient")) == 4


def test_weights_that_are_computed_outside_of_the_model_pass_their_gradients_on() -> None:
    def step(case: Case) -> Any:
        doubled = {name: 2 * parameter for name, parameter in case.model.named_parameters()}
        return torch.func.functional_call(case.model, doubled, case.args).sum().backward()

    recording = recording_of(small_net, batch, step=step)
    assert [parameter.name for parameter in recording.parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert len(recording.select("weight_gradient")) == 4
