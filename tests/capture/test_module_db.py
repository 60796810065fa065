"""Every module that PyTorch itself tests, on PyTorch's own inputs, runs the same to the last bit while it is recorded."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing._internal.common_modules import ModuleInfo, ModuleInput, module_db

from headwater.capture import Problem
from tests.capture.bit_identity import (
    Case,
    Scenario,
    assert_observe_leaves_no_trace,
    assert_recording_changes_nothing,
    forward_and_backward,
    tensors_in,
)
from tests.capture.snapshots import random_seed
from tests.oracles.moments import assert_moments_match

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # PyTorch's own samples do that

NUM_SAMPLES = 8
# PyTorch's samples of these hold float64 whatever the dtype, and only show an error in float32.
DTYPES = {"nn.FractionalMaxPool2d": torch.float64, "nn.FractionalMaxPool3d": torch.float64}
EVERY_MODULE = pytest.mark.parametrize("info", module_db, ids=lambda info: info.name)
TRAIN_AND_EVAL = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def samples_of(info: ModuleInfo, training: bool) -> list[ModuleInput]:
    """At least `NUM_SAMPLES` inputs: spread over PyTorch's list where it is long, with new random values where short."""
    samples: list[ModuleInput] = []
    seed = 0
    while len(samples) < NUM_SAMPLES:
        random_seed(seed)
        listed = info.module_inputs_func(
            info, device="cpu", dtype=DTYPES.get(info.name, torch.float32), requires_grad=True, training=training
        )
        step = max(1, len(listed) // (2 * NUM_SAMPLES))
        samples.extend(sample for sample in listed[::step] if sample.forward_input is not None)
        seed += 1
    return samples


def copied(value: Any) -> Any:
    """A copy with tensors that are leaves (PyTorch's inputs to losses are often logarithms of a leaf)."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple | list):
        return type(value)(map(copied, value))
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return copy.deepcopy(value)


def scenario_of(info: ModuleInfo, sample: ModuleInput, training: bool, outputs: list[Any]) -> Scenario:
    def build() -> Case:
        constructor = sample.constructor_input
        model = info.module_cls(*constructor.args, **constructor.kwargs).train(training)
        return Case(model=model, args=copied(sample.forward_input.args), kwargs=copied(sample.forward_input.kwargs))

    def step(case: Case) -> Any:
        outputs.append(forward_and_backward(case))
        return outputs[-1]

    return Scenario(build=build, step=step)


def assert_outputs_were_measured(recording: Any, output: Any) -> None:
    """The activation of the root call is that of the output, by a float64 oracle."""
    tensors = tensors_in(output)
    measured = recording.signal("activation", 0)
    if not tensors:
        assert measured is None
        return
    unique = {signal.tensor: signal.stats for signal in recording.select("activation", depth=0)}
    merged = functools.reduce(lambda left, right: left.merge(right), unique.values())
    assert_moments_match(merged, tensors, rtol=1e-6)


@TRAIN_AND_EVAL
@EVERY_MODULE
def test_recording_changes_nothing_of(info: ModuleInfo, training: bool) -> None:
    samples = samples_of(info, training)
    assert len(samples) >= NUM_SAMPLES
    for sample in samples:
        outputs: list[Any] = []
        recording = assert_recording_changes_nothing(scenario_of(info, sample, training, outputs))
        if not outputs:  # the sample shows an error: the same one with and without recording
            continue
        output, loss = outputs[-1]
        assert_outputs_were_measured(recording, output)
        if loss is not None and math.isfinite(loss.detach()):
            assert recording.select("activation_gradient", depth=0)


@TRAIN_AND_EVAL
@EVERY_MODULE
def test_observe_leaves_no_trace_on(info: ModuleInfo, training: bool) -> None:
    for sample in samples_of(info, training):
        random_seed(0)
        case = scenario_of(info, sample, training, []).build()
        # A loss module has no parameter to diagnose, so that every module stands beside one that has.
        problem = Problem(_BesideALinear(case.model), (case.args, case.kwargs))
        if not _runs(case.model, copied(case.args), copied(case.kwargs)):  # a sample that shows an error
            continue
        recording = assert_observe_leaves_no_trace(problem)
        assert any(call.module == "inner" and call.finished for call in recording.calls)
        return
    pytest.fail("no sample runs")


def _runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        copy.deepcopy(model)(*args, **kwargs)
    except Exception:
        return False
    return True


class _BesideALinear(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1, bias=False)
        self.inner = inner

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.inner(*args, **kwargs), self.scale(torch.ones(2, 1))


def test_pytorchs_list_is_as_long_as_it_is_known_to_be() -> None:
    assert len(module_db) >= 110
