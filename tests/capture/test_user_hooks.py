"""The user's own hooks do what they did, and what they change is what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import record
from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import batch, small_net
from tests.capture.signals import called, has, signals, stats
from tests.capture.test_hostile_modules import _double_gradient
from tests.oracles.moments import assert_moments_match


def hooked(register: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = small_net()
        register(model)
        return model

    return make


USER_HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m[0].register_forward_hook(lambda _m, _a, output: output * 3),
    "forward with kwargs": lambda m: m[0].register_forward_hook(lambda _m, _a, _k, output: output + 1, with_kwargs=True),
    "forward always": lambda m: m[0].register_forward_hook(lambda _m, _a, output: output - 1, always_call=True),
    "forward on the model": lambda m: m.register_forward_hook(lambda _m, _a, output: (output, None)),
    "forward that returns a dict": lambda m: m.register_forward_hook(lambda _m, _a, output: {"out": output}),
    "several forward": lambda m: [m[0].register_forward_hook(lambda _m, _a, o, f=f: o * f) for f in (2, 3, 5)],
    "forward pre": lambda m: m[2].register_forward_pre_hook(lambda _m, args: (args[0] * 2,)),
    "forward pre with kwargs": lambda m: m[2].register_forward_pre_hook(lambda _m, a, k: ((a[0] + 1,), k), with_kwargs=True),
    "full backward": lambda m: m[1].register_full_backward_hook(lambda _m, gradients, _o: (gradients[0] * 2,)),
    "full backward pre": lambda m: m[1].register_full_backward_pre_hook(lambda _m, gradients: (gradients[0] * 2,)),
    "full backward on the model": lambda m: m.register_full_backward_hook(lambda _m, gradients, _o: None),
    "parameter": lambda m: m[0].weight.register_hook(lambda gradient: gradient * 2),
    "post-accumulate": lambda m: m[0].weight.register_post_accumulate_grad_hook(_double_gradient),
    "removes itself": lambda m: _hook_once(m[0]),
    "state dict": lambda m: m.register_state_dict_post_hook(lambda *_: None),
}  # fmt: skip


def _hook_once(module: nn.Module) -> None:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        handle.remove()
        return output * 2

    handle = module.register_forward_hook(hook)


@pytest.mark.parametrize("kind", USER_HOOKS)
def test_the_users_hooks_work_as_before(kind: str) -> None:
    recording = recording_of(hooked(USER_HOOKS[kind]), batch)
    assert called(recording) == ["", "0", "1", "2"]
    assert has(recording, "activation_gradient", "0")
    assert has(recording, "weight_gradient", "0")


@pytest.mark.parametrize("kind", ["forward", "forward with kwargs", "forward always", "several forward"])
def test_an_output_that_a_hook_replaced_is_what_is_measured(kind: str) -> None:
    recording = recording_of(hooked(USER_HOOKS[kind]), batch)
    replaced = recording.select("activation", module="0")[0]
    read = recording.select("input", module="1")[0]
    assert replaced.tensor == read.tensor
    assert replaced.stats == read.stats


@pytest.mark.parametrize("kind", ["forward pre", "forward pre with kwargs"])
def test_an_input_that_a_hook_replaced_is_what_is_measured(kind: str) -> None:
    recording = recording_of(hooked(USER_HOOKS[kind]), batch)
    assert recording.select("input", module="2")[0].stats != recording.select("activation", module="1")[0].stats


def test_a_gradient_changed_by_a_parameter_hook_is_recorded_as_it_reaches_grad() -> None:
    models: list[nn.Module] = []

    def step(case: Case) -> Any:
        models.append(case.model)
        return forward_and_backward(case)

    recording = recording_of(hooked(USER_HOOKS["parameter"]), batch, step=step)
    assert_moments_match(stats(recording, "weight_gradient", "0", item="weight"), models[-1][0].weight.grad, rtol=1e-6)


@pytest.fixture
def global_hook() -> Iterator[list[str]]:
    seen: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, _a, _o: seen.append(type(m).__name__))
    yield seen
    handle.remove()


def test_a_process_wide_hook_of_the_users_own_stays(global_hook: list[str]) -> None:
    model = small_net()
    with record(model):
        model(batch())
    during = len(global_hook)
    model(batch())
    assert during == len(global_hook) - during == 4


def test_a_hook_that_is_registered_while_recording_stays() -> None:
    model = small_net()
    with record(model):
        model[0].register_forward_hook(lambda _m, _a, output: output * 2)
        with_hook = model(torch.ones(1, 4))
    assert torch.equal(model(torch.ones(1, 4)), with_hook)
    assert len(model[0]._forward_hooks) == 1


def test_a_hook_that_raises_raises_the_same() -> None:
    def make() -> nn.Module:
        model = small_net()
        model[1].register_forward_hook(lambda *_: 1 / 0)
        return model

    model = make()
    with pytest.raises(ZeroDivisionError), record(model) as recorder:
        model(batch())
    finished = {call.module: call.finished for call in recorder.recording.calls}
    assert finished["0"]
    assert not finished[""]


def test_a_prehook_does_not_hide_what_an_inplace_module_read() -> None:
    def make(inplace: bool) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=inplace))
            model[1].register_forward_pre_hook(lambda _m, _a: None)
            return model

        return build

    assert signals(recording_of(make(True), batch)) == signals(recording_of(make(False), batch))


def test_hooks_of_the_user_work_in_two_recordings_at_once() -> None:
    model = hooked(USER_HOOKS["several forward"])()
    with record(model) as outer, record(model) as inner:
        output = model(torch.ones(1, 4))
        output.sum().backward()
    assert signals(outer.recording) == signals(inner.recording)
    assert torch.equal(model(torch.ones(1, 4)), output)
    assert len(model[0]._forward_hooks) == 3
