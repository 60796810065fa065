"""Whatever the copy of the optimiser does, the user's objects stay as they are."""

from __future__ import annotations

import random

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from headwater.recording import SignalKind
from tests.capture.bit_identity import differences
from tests.capture.next_steps import counts, net, observed, step_once
from tests.capture.snapshots import Snapshotter, random_states


class Rounding(torch.optim.Adam):
    """An optimiser of somebody's own: random, counting, with more attributes than torch knows of."""

    num_steps_of_all = 0

    def __init__(self, parameters):
        super().__init__(parameters)
        self.history = []
        self.noise = torch.zeros(3)

    def step(self, closure=None):
        self.history.append(len(self.history))
        self.noise += torch.rand(3) + random.random()
        return super().step(closure)


class Failing(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["lr"] = 77.0
        raise RuntimeError("broken")


def _with_hooks(model):
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.calls = []
    optimizer.register_step_pre_hook(lambda *_: optimizer.calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: optimizer.calls.append("after"))
    return optimizer


def _with_scheduler(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer.scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)  # wraps the object's own `step`
    return optimizer


def _that_steps_elsewhere(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.step = optimizer.step
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Rounding(m.parameters()),
        lambda m: Failing(m.parameters(), 0.1),
        lambda m: torch.optim.LBFGS(m.parameters()),
        _with_hooks,
        _with_scheduler,
        _that_steps_elsewhere,
    ],
)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_neither_the_optimizer_nor_the_model_nor_a_generator_is_touched(make, num_steps):
    model = net()
    optimizer = make(model)
    for _ in range(num_steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        try:
            optimizer.step(*([lambda: torch.zeros(())] if isinstance(optimizer, torch.optim.LBFGS) else []))
        except RuntimeError:
            optimizer.param_groups[0]["lr"] = 0.1
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("after")),
    ]

    def snapshot():
        return {**Snapshotter().of(model, "model"), **Snapshotter().of(optimizer, "optimizer"), **random_states()}

    try:
        before = snapshot()
        observed(model, optimizer)
        assert differences(before, snapshot()) == []
        assert calls == []
        step_once(net(), torch.optim.SGD(model.parameters(), 0.1))
        assert calls == ["before", "after"]
    finally:
        for handle in handles:
            handle.remove()


class Consuming(torch.optim.SGD):
    """Uses the gradients up."""

    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.zero_()


def test_a_step_that_changes_its_gradients_changes_copies():
    model = net()
    consumed, kept = (observed(model, make(model.parameters(), 0.1)) for make in (Consuming, torch.optim.SGD))
    assert counts(consumed, "num_with_gradient") == counts(kept, "num_with_gradient")


def test_a_subclass_steps_as_it_likes_and_its_rounding_is_its_own():
    model = net()
    recording = observed(model, Rounding(model.parameters()))
    assert len(recording.select(SignalKind.UPDATE)) == 6
    assert recording.series("num_unchanged")
    assert recording.series("num_lost_to_rounding") == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: Failing(p, 0.1), "Failing was not observed: RuntimeError: broken."),
        (torch.optim.LBFGS, "LBFGS was not observed: it runs the model again (step() needs a closure)."),
    ],
)
def test_a_step_that_cannot_be_taken_is_a_note(make, words):
    model = net()
    recording = observed(model, make(model.parameters()))
    assert recording.context.notes == (f"The next step of {words}",)
    assert recording.select(SignalKind.UPDATE) == []
    assert set(counts(recording, "in_optimizer").values()) == {1.0}
