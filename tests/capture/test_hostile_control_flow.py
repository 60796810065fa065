"""Passes that do not run straight through: interrupted, nested, in threads, very deep, several models at once."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import Recorder, RecorderError, record
from tests.capture.bit_identity import Case, Scenario, assert_recording_changes_nothing, forward_and_backward, recording_of
from tests.capture.signals import called, has, notes, signals, stats
from tests.capture.snapshots import process_state
from tests.capture.test_hostile_graphs import Lambda, batch
from tests.oracles.moments import assert_moments_match


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
    return lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), Raises(error, where)), nn.Linear(4, 2))


ERRORS = pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit, Stop, StopIteration])
WHERE = pytest.mark.parametrize("where", ["forward", "backward"])


@ERRORS
@WHERE
def test_an_interrupted_pass_leaves_the_same_state_as_without_recording(error: type[BaseException], where: str) -> None:
    scenario = Scenario(
        build=lambda: Case(model=fragile(error, where)(), args=(batch(),)), step=forward_and_backward
    )
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
        try:
            forward_and_backward(case)
        except BaseException as raised:
            assert isinstance(raised, error)
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
            lambda error=error: Lambda(forward, nn.Linear(4, 4), nn.Sequential(Raises(error, times=9)), nn.Linear(4, 4)), batch
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
            raise ValueError("outer")
        except ValueError:
            return forward_and_backward(case)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)
    assert all(call.finished for call in recording.calls)
    assert has(recording, "activation_gradient", "")


def test_wrong_inputs_raise_the_same_error() -> None:
    scenario = Scenario(
        build=lambda: Case(model=nn.Sequential(nn.Linear(4, 4)), args=(torch.ones(2, 5),)), step=forward_and_backward
    )
    recording = assert_recording_changes_nothing(scenario)
    assert not any(call.finished for call in recording.calls)


# --- several recordings ----------------------------------------------------------------------------------------------


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


@contextmanager
def recorded_twice(model: nn.Module) -> Iterator[tuple[Recorder, Recorder]]:
    with record(model) as outer, record(model) as inner:
        yield outer, inner


def test_one_model_can_be_recorded_twice_at_once() -> None:
    from tests.capture.bit_identity import differences_under

    scenario = Scenario(build=lambda: Case(model=net(), args=(batch(),)), step=forward_and_backward)
    found, (outer, inner) = differences_under(recorded_twice, scenario)
    assert found == []
    assert signals(outer.recording) == signals(inner.recording) == signals(recording_of(net, batch))


def test_an_inner_recording_sees_only_its_own_part() -> None:
    model = net()
    with record(model) as outer:
        model(batch()).sum().backward()
        with record(model) as inner:
            model(batch()).sum().backward()
        model(batch()).sum().backward()
    assert called(outer.recording) == 3 * ["", "0", "1", "2"]
    assert called(inner.recording) == ["", "0", "1", "2"]
    assert has(inner.recording, "weight_gradient", "0")


def test_overlapping_recordings_may_end_in_any_order() -> None:
    model = net()
    before = process_state()
    first, second = record(model), record(model)
    first.__enter__()
    second.__enter__()
    model(batch()).sum().backward()
    first.__exit__(None, None, None)
    model(batch()).sum().backward()
    second.__exit__(None, None, None)
    assert called(first.recording) == ["", "0", "1", "2"]
    assert called(second.recording) == 2 * ["", "0", "1", "2"]
    assert process_state() == before


def test_repeated_recordings_are_equal_and_leave_nothing_behind() -> None:
    model, x = net(), batch()
    before = process_state()
    recordings = []
    for _ in range(5):
        model.zero_grad()
        with record(model) as recorder:
            model(x).sum().backward()
        recordings.append(recorder.recording)
    assert all(signals(recording) == signals(recordings[0]) for recording in recordings)
    assert process_state() == before


def test_a_recorder_can_be_used_again_and_then_holds_the_new_recording() -> None:
    model = net()
    recorder = record(model)
    with recorder:
        model(batch())
    with recorder:
        model(batch())
        model(batch())
    assert len(called(recorder.recording)) == 8


def test_a_recording_is_not_there_before_the_block_ends() -> None:
    with record(net()) as recorder:
        with pytest.raises(RecorderError, match="ends"):
            _ = recorder.recording
        with pytest.raises(RecorderError, match="already"):
            recorder.__enter__()


def test_two_models_are_recorded_side_by_side() -> None:
    first, second = net(), net()
    with record(first) as one, record(second) as other:
        (first(batch()).sum() * second(batch()).sum()).backward()
    assert called(one.recording) == called(other.recording) == ["", "0", "1", "2"]
    assert has(one.recording, "weight_gradient", "0")
    assert has(other.recording, "weight_gradient", "0")


def test_two_models_that_share_a_module_both_see_it() -> None:
    shared = nn.Linear(4, 4)
    first, second = nn.Sequential(shared, nn.Tanh()), nn.Sequential(shared, nn.ReLU())
    with record(first) as one, record(second) as other:
        (first(batch()).sum() + second(batch()).sum()).backward()
    assert [call.module for call in one.recording.calls].count("0") == 2
    assert [call.module for call in other.recording.calls].count("0") == 2


def test_a_generator_against_a_discriminator_changes_nothing() -> None:
    def step(case: Case) -> Any:
        generator, critic = case.model
        real, noise = case.args
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
        loss = critic(generator(noise).detach()).mean() - critic(real).mean()
        loss.backward()
        optimizer.step()
        critic.zero_grad()
        critic(generator(noise)).mean().backward()

    recording = recording_of(
        lambda: nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))]),
        batch,
        batch,
        step=step,
    )
    assert [call.module for call in recording.calls if call.parent == -1] == ["0", "1", "1", "0", "1"]


def test_nothing_is_recorded_after_the_block() -> None:
    model = net()
    with record(model) as recorder:
        output = model(batch())
    before = signals(recorder.recording)
    output.sum().backward()
    model(batch())
    assert signals(recorder.recording) == before
    assert recorder.recording.context.cotangent == "none"


def test_a_backward_of_a_graph_from_before_the_block_is_seen_in_the_weights() -> None:
    model = net()
    output = model(batch())
    with record(model) as recorder:
        output.sum().backward()
    assert called(recorder.recording) == []
    assert len(recorder.recording.select("weight_gradient")) == 4
    assert recorder.recording.context.cotangent == "user"


# --- threads ---------------------------------------------------------------------------------------------------------


def in_a_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_forward_in_another_thread_is_recorded() -> None:
    def step(case: Case) -> Any:
        output = in_a_thread(lambda: case.model(*case.args))
        output.sum().backward()
        return output

    recording = recording_of(net, batch, step=step)
    assert called(recording) == ["", "0", "1", "2"]
    assert has(recording, "activation_gradient", "0")


def test_a_backward_in_another_thread_is_recorded() -> None:
    def step(case: Case) -> Any:
        output = case.model(*case.args)
        in_a_thread(lambda: output.sum().backward())
        return output

    recording = recording_of(net, batch, step=step)
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


def test_modules_of_a_model_that_is_not_recorded_are_ignored() -> None:
    recorded, other = net(), net()
    with record(recorded) as recorder:
        other(batch()).sum().backward()
    assert len(recorder.recording.calls) == 0
    assert not recorder.recording.select("weight_gradient")


# --- depth and memory ------------------------------------------------------------------------------------------------


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
    model = net()
    reference = weakref.ref(model[0].weight)
    with record(model) as recorder:
        model(batch()).sum().backward()
    recording = recorder.recording
    del model, recorder
    gc.collect()
    assert reference() is None
    assert len(recording) > 0


# --- the rest --------------------------------------------------------------------------------------------------------


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
        wrapped = nn.parallel.DistributedDataParallel(net())
        plain = net()
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

    recording = recording_of(net, batch, step=step)
    assert has(recording, "weight_gradient", "0")
    assert notes(recording) == ""
