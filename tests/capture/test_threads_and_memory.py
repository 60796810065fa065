"""Threads, depth, and what must not be kept alive."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import record
from headwater.capture.gradient_hooks import GradientHooks
from headwater.capture.open_calls import OpenCalls
from headwater.recording import TensorStats
from tests.capture.bit_identity import (
    Case,
    recording_of,
)
from tests.capture.hostile_models import Lambda, batch, small_net
from tests.capture.signals import called, has


def in_a_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_forward_in_another_thread_is_recorded() -> None:
    def step(case: Case) -> Any:
        output = in_a_thread(lambda: case.model(*case.args))
        output.sum().backward()
        return output

    recording = recording_of(small_net, batch, step=step)
    assert called(recording) == ["", "0", "1", "2"]
    assert has(recording, "activation_gradient", "0")


def test_a_backward_in_another_thread_is_recorded() -> None:
    def step(case: Case) -> Any:
        output = case.model(*case.args)
        in_a_thread(lambda: output.sum().backward())
        return output

    recording = recording_of(small_net, batch, step=step)
    assert has(recording, "activation_gradient", "0")
    assert has(recording, "weight_gradient", "0")


def test_two_threads_that_run_the_model_at_once_do_not_confuse_the_calls() -> None:
    barrier = threading.Barrier(2)

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            barrier.wait(timeout=60)
            return x

    model = nn.Sequential(nn.Linear(4, 4), Waits(), nn.Sequential(nn.Linear(4, 2)))
    with record(model) as recorder, ThreadPoolExecutor(2) as pool:
        for output in pool.map(model, [batch(), batch()]):
            output.sum().backward()
    calls = recorder.recording.calls
    assert sorted(call.module for call in calls) == sorted(2 * ["", "0", "1", "2", "2.0"])
    roots = {call.depth for call in calls if call.module == ""}
    assert all(call.parent in roots for call in calls if call.module in {"0", "1", "2"})
    assert len({call.parent for call in calls if call.module == "2"}) == 2
    assert all(call.finished for call in calls)


def test_a_gradient_that_another_devices_thread_measures_meanwhile_is_not_taken_for_this_one() -> None:
    """Autograd runs a thread for each device; a switch of threads happens here whenever a measurement is kept."""
    other = torch.full((3,), 3.0)

    class Interrupted(GradientHooks):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_latest" and value is not None and value[0] is not other:
                self._measured_on_the_way([other], "of the other device")

    hooks = Interrupted(OpenCalls(), {}, exponents=False)
    measured = hooks._measured_on_the_way([torch.ones(3)], "of this device")
    assert isinstance(measured, TensorStats)
    assert measured.mean_abs == 1.0


def test_a_model_of_two_thousand_layers_is_recorded() -> None:
    recording = recording_of(
        lambda: nn.Sequential(*(layer for _ in range(1000) for layer in (nn.Linear(4, 4), nn.ELU(inplace=True)))), batch
    )
    assert len(recording.calls) == 2001
    assert len(recording.select("activation_gradient")) == 2001
    assert len(recording.select("weight_gradient")) == 2000


def test_deeply_nested_modules_are_recorded() -> None:
    def make() -> nn.Module:
        model: nn.Module = nn.Linear(4, 4)
        for _ in range(100):
            model = nn.Sequential(model)
        return model

    recording = recording_of(make, batch)
    assert [call.parent for call in recording.calls] == list(range(-1, 100))
    assert len({signal.tensor for signal in recording.select("activation")}) == 1


@pytest.mark.parametrize("gradients", [True, False], ids=["with gradients", "without gradients"])
def test_activations_are_not_kept_alive(gradients: bool) -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Notes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            output = x * 2
            alive.append(weakref.ref(output))
            return output

    model = nn.Sequential(nn.Linear(4, 4), *(Notes() for _ in range(10)))
    with record(model), torch.set_grad_enabled(gradients):
        model(batch())
        gc.collect()
        assert sum(reference() is not None for reference in alive) == 0


def test_the_graph_is_freed_as_soon_as_the_user_lets_go_of_it() -> None:
    freed: list[bool] = []

    class Saves(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            kept = torch.ones(3)
            weakref.finalize(kept, freed.append, True)
            ctx.kept = kept
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    model = nn.Sequential(nn.Linear(4, 4), Lambda(lambda _, x: Saves.apply(x)), nn.Linear(4, 2))
    with record(model):
        output = model(batch())
        output.sum().backward()
        del output
        gc.collect()
        assert freed == [True]


def test_a_recorder_does_not_keep_the_model_alive() -> None:
    model = small_net()
    reference = weakref.ref(model[0].weight)
    with record(model) as recorder:
        model(batch()).sum().backward()
    recording = recorder.recording
    del model, recorder
    gc.collect()
    assert reference() is None
    assert len(recording) > 0


def test_a_loop_over_the_steps_of_an_input_does_not_keep_a_gradient_for_each() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most_alive: list[int] = []

    class Note(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            sent = gradient * 2
            alive.append(weakref.ref(sent))
            most_alive.append(sum(reference() is not None for reference in alive))
            return sent

    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.tanh(Note.apply(x)) for _ in range(200)]).sum(0)

    model = nn.Sequential(nn.Linear(4, 4), Loop(), nn.Linear(4, 2))
    inputs = batch()
    with record(model) as recorder:
        model(inputs).sum().backward()
    assert max(most_alive) < 20
    own = recorder.recording.signal("input_gradient", 2)
    whole = recorder.recording.signal("activation_gradient", 1)
    assert own is not None
    assert whole is not None
    assert own.norm == pytest.approx(whole.norm, rel=1e-6)
