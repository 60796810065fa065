"""The check that recording changes nothing must itself be able to fail: here are recorders that do change something."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.capture.bit_identity import (
    Case,
    Scenario,
    assert_recording_changes_nothing,
    differences_under,
    forward_and_backward,
)


def _build() -> Case:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.GELU(), nn.Linear(8, 2))
    return Case(model=model, args=(torch.randn(6, 4, requires_grad=True),))


SCENARIO = Scenario(build=_build, step=forward_and_backward)


@contextmanager
def _nothing(_: nn.Module) -> Iterator[None]:
    yield


def _after(change: Callable[[nn.Module], object]) -> Callable[[nn.Module], AbstractContextManager[None]]:
    @contextmanager
    def intrude(model: nn.Module) -> Iterator[None]:
        yield
        with torch.no_grad():
            change(model)

    return intrude


def _during(hook: Callable[..., object]) -> Callable[[nn.Module], AbstractContextManager[None]]:
    @contextmanager
    def intrude(model: nn.Module) -> Iterator[None]:
        handles = [module.register_forward_hook(hook) for module in model]
        yield
        for handle in handles:
            handle.remove()

    return intrude


def _scale_gradient(_module: nn.Module, _args: tuple[Tensor], output: Tensor) -> None:
    output.register_hook(lambda gradient: gradient * (1 + 2**-23))


@contextmanager
def _leave_a_mode(_: nn.Module) -> Iterator[None]:
    yield
    torch.set_grad_enabled(False)


INTRUSIONS = {
    "takes a random number from torch": (_after(lambda _: torch.rand(1)), "random state of torch"),
    "takes a random number from python": (_after(lambda _: random.random()), "random state of python"),
    "takes a random number from numpy": (_after(lambda _: np.random.rand()), "random state of numpy"),
    "moves one weight by one ulp": (_after(lambda m: m[0].weight[0, 0].mul_(1 + 2**-23)), "[weight] bits"),
    "changes the sign of a zero": (_after(lambda m: m[0].weight.grad.mul_(0).neg_()), "grad bits"),
    "writes a weight back unchanged": (_after(lambda m: m[0].weight.copy_(m[0].weight.clone())), "[weight] version"),
    "touches a buffer": (_after(lambda m: m[1].num_batches_tracked.add_(1)), "[num_batches_tracked] bits"),
    "leaves eval mode on": (_after(lambda m: m[2].eval()), "_modules[2].training"),
    "freezes a parameter": (_after(lambda m: m[0].weight.requires_grad_(False)), "[weight] kind"),
    "drops a gradient": (_after(lambda m: setattr(m[0].weight, "grad", None)), "[weight].grad"),
    "leaves an attribute": (_after(lambda m: setattr(m[3], "recorder", 1)), "attributes"),
    "patches forward": (_after(lambda m: setattr(m[3], "forward", m[3].forward)), "attributes"),
    "leaves a forward hook": (_after(lambda m: m[3].register_forward_hook(_nothing)), "_forward_hooks"),
    "leaves a hook on a parameter": (_after(lambda m: _hook_parameter(m[0].weight)), "[weight] hooks"),
    "leaves a hook for every module": (
        _after(lambda _: torch.nn.modules.module.register_module_forward_hook(_nothing)),
        "process _global_forward_hooks after",
    ),
    "switches gradients off": (_leave_a_mode, "process grad mode after"),
    "warns": (_after(lambda _: warnings.warn("measured", stacklevel=1)), "warnings"),
    "raises": (_after(lambda m: m[7]), "error"),
    "returns another tensor": (_during(lambda _m, _a, output: output.clone()), "output"),
    "adds a signed zero to outputs": (_during(lambda _m, _a, output: output + 0.0), "output"),
    "writes to outputs in place": (_during(lambda _m, _a, output: output.data.add_(0.0) and None), "output"),
    "scales a gradient by one ulp": (_during(_scale_gradient), "grad bits"),
    "leaves a hook on an output": (
        _during(lambda _m, _a, output: output.register_hook(lambda _: None) and None),
        "hooks",
    ),
}


def _hook_parameter(parameter: Tensor) -> None:
    with torch.enable_grad():
        parameter.register_hook(lambda _: None)


@pytest.fixture(autouse=True)
def _clean_process() -> Iterator[None]:
    yield
    torch.set_grad_enabled(True)
    torch.nn.modules.module._global_forward_hooks.clear()


def test_two_bare_runs_are_identical() -> None:
    found, _ = differences_under(_nothing, SCENARIO)
    assert found == []


@pytest.mark.parametrize("intrusion", INTRUSIONS)
def test_a_careless_recorder_is_found_out_when_it(intrusion: str) -> None:
    observer, where = INTRUSIONS[intrusion]
    found, _ = differences_under(observer, SCENARIO)
    assert any(where in line for line in found), found


def test_headwaters_own_recorder_passes() -> None:
    recording = assert_recording_changes_nothing(SCENARIO)
    assert [call.module for call in recording.calls] == ["", "0", "1", "2", "3", "4"]
