"""`observe` puts everything back, also where the pass fails."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import Problem, ProblemError, observe
from tests.capture.bit_identity import (
    assert_observe_leaves_no_trace,
)
from tests.capture.hostile_models import Lambda, batch, images, small_net
from tests.capture.signals import signals


def test_a_model_of_batch_norms_keeps_its_statistics_after_observe() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3))
    assert_observe_leaves_no_trace(Problem(model, images()))
    assert_observe_leaves_no_trace(Problem(model.eval(), images()))


def test_observe_keeps_gradients_that_were_there() -> None:
    model = small_net()
    model(batch()).sum().backward()
    assert_observe_leaves_no_trace(Problem(model, batch()))


def test_observe_leaves_no_trace_on_a_model_that_writes_to_itself() -> None:
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("later", None)
            self.mask = torch.zeros(4)
            self.history: list[Tensor] = []
            self.cache: dict[str, Any] = {"deep": {"er": [1]}}
            self.steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.later = x.detach().mean(0)
            self.mask[0] += 1
            self.history.append(x)
            self.cache["x"] = x
            self.cache["deep"]["er"].append(2)
            self.steps += 1
            self.extra = x
            with torch.no_grad():
                self.layer.weight.clamp_(-0.1, 0.1)
            self.train(not self.training)
            return self.layer(x) * self.mask

    assert_observe_leaves_no_trace(Problem(Writer(), batch()))


@pytest.mark.parametrize("failing", ["forward", "loss", "backward"])
def test_observe_leaves_no_trace_when_the_pass_fails(failing: str) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(self.norm(x))
            if failing == "forward":
                raise RuntimeError("broken")
            if failing == "backward":
                x.register_hook(lambda _: 1 / 0)
            return x

    model = Fails()
    loss = (lambda _: torch.rand(2)) if failing == "loss" else (lambda output: output.pow(2).sum())
    problem = Problem(model, batch(), loss=loss)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    with pytest.raises(ProblemError):
        observe(problem)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_observe_takes_inputs_of_every_structure() -> None:
    model = Lambda(lambda layers, x, extra: layers[0](x) + extra["bias"], nn.Linear(4, 3))
    extra = {"bias": torch.ones(3, requires_grad=True), "unused": None}
    recording = assert_observe_leaves_no_trace(Problem(model, (batch(), extra)))
    assert recording.context.cotangent == "random"
    assert extra["bias"].grad is None


def test_observe_gives_the_same_recording_twice() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)), batch()
    torch.manual_seed(3)
    first = observe(Problem(model, x), seed=5)
    assert signals(first) == signals(observe(Problem(model, x), seed=5))
    assert signals(first, "activation_gradient") != signals(observe(Problem(model, x), seed=6), "activation_gradient")


def test_tensors_in_lists_and_dicts_of_a_module_are_put_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.means = [torch.zeros(4)]
            self.cache = {"deep": {"er": torch.zeros(4)}}
            self.pair = (torch.zeros(4), [torch.zeros(4)])

        def tensors(self) -> list[Tensor]:
            return [self.means[0], self.cache["deep"]["er"], self.pair[0], self.pair[1][0]]

        def forward(self, x: Tensor) -> Tensor:
            for tensor in self.tensors():
                tensor.add_(1)
            return self.layer(x)

    model = Counts()
    before = model.tensors()
    observe(Problem(model, batch()), samples=None)
    assert all(now is then for now, then in zip(model.tensors(), before, strict=True))
    assert [tensor.tolist() for tensor in model.tensors()] == 4 * [[0.0] * 4]


def test_the_seed_that_waits_for_a_gpu_is_the_users() -> None:
    def waiting() -> Any:
        return [call for call, _ in filter(None, torch.cuda._lazy_seed_tracker.get_calls())]

    torch.manual_seed(42)
    before = waiting()
    observe(Problem(small_net(), batch(), loss=lambda output: output.square().mean()), samples=None)
    assert waiting() == before
