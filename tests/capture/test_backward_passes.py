"""Backward passes that are not one plain `loss.backward()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    recording_of,
    scalar_loss,
)
from tests.capture.hostile_models import Lambda, batch, batch_with_grad
from tests.capture.signals import called, has, stats
from tests.oracles.moments import assert_moments_match


def test_a_double_backward_changes_nothing() -> None:
    def step(case: Case) -> Any:
        x = case.args[0]
        loss = scalar_loss(case.model(x))
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        gradient.pow(2).sum().backward()
        return loss, gradient

    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), batch_with_grad, step=step
    )
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

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), batch, step=step)
    assert has(recording, "weight_gradient", "0")


def test_a_gradient_penalty_inside_the_forward_is_the_models_own_affair() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(layers[0](x).sum(), x, create_graph=True)
        return layers[1](gradient)

    recording = recording_of(lambda: Lambda(forward, nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 1)), batch)
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
