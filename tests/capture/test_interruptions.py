"""Passes that an exception or Ctrl-C cuts short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import record
from tests.capture.bit_identity import (
    Case,
    Scenario,
    assert_recording_changes_nothing,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import Lambda, batch
from tests.capture.signals import called, has
from tests.capture.snapshots import process_state


class Stop(BaseException):
    """Neither an Exception nor anything that torch knows."""


class Raises(nn.Module):
    """Raises in its forward or its backward pass, as often as it is told to."""

    def __init__(self, error: type[BaseException], where: str = "forward", times: int = 1) -> None:
        super().__init__()
        self.error = error
        self.where = where
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "forward":
            self._raise()
        elif x.requires_grad:
            x = x.clone()
            x.register_hook(lambda _: self._raise())
        return x

    def _raise(self) -> None:
        if self.times:
            self.times -= 1
            raise self.error("in the middle")


def fragile(error: type[BaseException], where: str = "forward") -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), Raises(error, where)), nn.Linear(4, 2)
    )


ERRORS = pytest.mark.parametrize(
    "error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit, Stop, StopIteration]
)


WHERE = pytest.mark.parametrize("where", ["forward", "backward"])


@ERRORS
@WHERE
def test_an_interrupted_pass_leaves_the_same_state_as_without_recording(error: type[BaseException], where: str) -> None:
    scenario = Scenario(build=lambda: Case(model=fragile(error, where)(), args=(batch(),)), step=forward_and_backward)
    assert_recording_changes_nothing(scenario)


@ERRORS
@WHERE
def test_what_was_seen_before_an_interruption_is_recorded(error: type[BaseException], where: str) -> None:
    model = fragile(error, where)()
    before = process_state()
    with pytest.raises(error), record(model) as recorder:
        model(batch()).sum().backward()
    assert process_state() == before
    recording = recorder.recording
    assert called(recording)[:4] == ["", "0", "1", "1.0"]
    finished = {call.module: call.finished for call in recording.calls}
    assert finished["0"]
    assert finished[""] is (where == "backward")
    assert has(recording, "activation", "1.0")
    assert has(recording, "activation_gradient", "2") is (where == "backward")


@ERRORS
@WHERE
def test_a_pass_after_an_interrupted_one_is_recorded_as_usual(error: type[BaseException], where: str) -> None:
    def step(case: Case) -> Any:
        with pytest.raises(error):
            forward_and_backward(case)
        return forward_and_backward(case)

    recording = recording_of(fragile(error, where), batch, step=step)
    assert called(recording)[-6:] == ["", "0", "1", "1.0", "1.1", "2"]
    last = recording.calls[-6:]
    assert [call.finished for call in last] == [True] * 6
    assert last[0].parent == -1
    assert has(recording, "activation_gradient", "0", call=1)
    assert has(recording, "weight_gradient", "0")


def test_a_model_that_catches_the_error_of_a_part_is_recorded() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        try:
            x = layers[1](x)
        except (RuntimeError, KeyboardInterrupt):
            x = layers[2](x)
        return layers[2](x)

    for error in (RuntimeError, KeyboardInterrupt):
        recording = recording_of(
            lambda error=error: Lambda(
                forward, nn.Linear(4, 4), nn.Sequential(Raises(error, times=9)), nn.Linear(4, 4)
            ),
            batch,
        )
        assert called(recording) == ["", "layers.0", "layers.1", "layers.1.0", "layers.2", "layers.2"]
        assert [call.parent for call in recording.calls] == [-1, 0, 0, 2, 0, 0]
        assert [call.finished for call in recording.calls] == [True, True, False, False, True, True]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_module_that_catches_the_error_of_its_own_inner_call_is_recorded(error: type[BaseException]) -> None:
    class Retries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, level: int = 0) -> Tensor:
            x = self.layer(x)
            if level == 2:
                raise error
            try:
                x = self(x, level + 1)
            except (RuntimeError, KeyboardInterrupt):
                x = self.layer(x)
            return x

    recording = recording_of(Retries, batch)
    assert called(recording) == ["", "layer", "", "layer", "", "layer", "layer"]
    assert [call.parent for call in recording.calls] == [-1, 0, 0, 2, 2, 4, 2]
    assert [call.finished for call in recording.calls] == [True, True, True, True, False, True, True]


def test_a_model_run_while_an_exception_is_handled_is_recorded() -> None:
    def step(case: Case) -> Any:
        try:
            int("no number")
        except ValueError:
            return forward_and_backward(case)
        raise AssertionError("unreachable")

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)
    assert all(call.finished for call in recording.calls)
    assert has(recording, "activation_gradient", "")


def test_wrong_inputs_raise_the_same_error() -> None:
    scenario = Scenario(
        build=lambda: Case(model=nn.Sequential(nn.Linear(4, 4)), args=(torch.ones(2, 5),)), step=forward_and_backward
    )
    recording = assert_recording_changes_nothing(scenario)
    assert not any(call.finished for call in recording.calls)
