"""Tensors without values, and functional transforms: survived, and named."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from headwater.capture import Problem, observe, record
from tests.capture.bit_identity import (
    Case,
    recording_of,
)
from tests.capture.hostile_models import batch
from tests.capture.signals import called, has, notes


def test_nested_tensors_are_survived_and_named_or_measured() -> None:
    model = nn.Linear(4, 2)
    with record(model) as recorder:
        nested = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged)
        output = model(nested)
        output.values().sum().backward()
    assert has(recorder.recording, "activation", "") or notes(recorder.recording)
    assert has(recorder.recording, "weight_gradient", "")


def test_a_quantised_model_is_survived() -> None:
    class Quantising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    class Dequantising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.dequantize()

    def step(case: Case) -> Any:
        with torch.no_grad():
            return case.model(*case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), Quantising(), Dequantising()), batch, step=step)
    assert has(recording, "activation", "1") or notes(recording)
    assert has(recording, "activation", "2")


def test_a_model_on_the_meta_device_is_observed_without_values_and_that_is_said() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with record(model) as recorder:
        model(torch.ones(2, 4, device="meta")).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]
    assert "no values" in notes(recorder.recording)


def test_a_loss_on_the_meta_device_has_no_value_and_is_no_failure() -> None:
    model = nn.Linear(4, 3, device="meta")
    x, targets = torch.ones(2, 4, device="meta"), torch.ones(2, 3, device="meta")
    recording = observe(Problem(model, x, targets, nn.MSELoss()))
    assert (recording.context.cotangent, recording.context.loss) == ("loss", None)
    assert "no values" in notes(recording)


def test_fake_tensors_are_observed_without_values_and_that_is_said() -> None:
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        with record(model) as recorder:
            model(torch.ones(2, 4)).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]
    assert "no values" in notes(recorder.recording)


def test_torch_func_grad_over_the_model_is_survived_and_named() -> None:
    def step(case: Case) -> Any:
        parameters = dict(case.model.named_parameters())

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(case.model, parameters, (x,)).pow(2).sum()

        return torch.func.grad(loss)(parameters, *case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert called(recording) == ["", "0", "1"]
    assert "torch.func" in notes(recording)


def test_per_sample_gradients_by_vmap_are_survived_and_named() -> None:
    def step(case: Case) -> Any:
        parameters = {name: p.detach() for name, p in case.model.named_parameters()}

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(case.model, parameters, (x[None],)).pow(2).sum()

        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, *case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert "torch.func" in notes(recording)


def test_vmap_over_the_model_is_survived_and_named() -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        batch,
        step=lambda case: torch.func.vmap(case.model)(*case.args).sum().backward(),
    )
    assert "torch.func" in notes(recording)
    assert has(recording, "weight_gradient", "0")


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.hessian])
def test_jacobians_of_the_model_are_survived_and_named(transform: Any) -> None:
    with warnings.catch_warnings():  # what torch.func itself imports when it is first used
        warnings.simplefilter("ignore")
        transform(nn.Tanh())(torch.ones(2))
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        lambda: torch.randn(4),
        step=lambda case: transform(case.model)(*case.args),
    )
    assert "torch.func" in notes(recording)


def test_forward_mode_differentiation_runs_the_same() -> None:
    with warnings.catch_warnings():  # what torch itself imports when it is first used
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.tanh, (torch.ones(2),), (torch.ones(2),))

    def step(case: Case) -> Any:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(case.args[0], torch.ones_like(case.args[0]))
            return torch.autograd.forward_ad.unpack_dual(case.model(dual)).tangent

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert called(recording) == ["", "0", "1"]
