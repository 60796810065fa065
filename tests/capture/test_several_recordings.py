"""Several recordings of one model, several models, one after the other and at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from headwater.capture import Recorder, RecorderError, record
from tests.capture.bit_identity import (
    Case,
    Scenario,
    differences_under,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import batch, small_net
from tests.capture.signals import called, has, signals
from tests.capture.snapshots import process_state


@contextmanager
def recorded_twice(model: nn.Module) -> Iterator[tuple[Recorder, Recorder]]:
    with record(model) as outer, record(model) as inner:
        yield outer, inner


def test_one_model_can_be_recorded_twice_at_once() -> None:

    scenario = Scenario(build=lambda: Case(model=small_net(), args=(batch(),)), step=forward_and_backward)
    found, (outer, inner) = differences_under(recorded_twice, scenario)
    assert found == []
    assert signals(outer.recording) == signals(inner.recording) == signals(recording_of(small_net, batch))


def test_an_inner_recording_sees_only_its_own_part() -> None:
    model = small_net()
    with record(model) as outer:
        model(batch()).sum().backward()
        with record(model) as inner:
            model(batch()).sum().backward()
        model(batch()).sum().backward()
    assert called(outer.recording) == 3 * ["", "0", "1", "2"]
    assert called(inner.recording) == ["", "0", "1", "2"]
    assert has(inner.recording, "weight_gradient", "0")


def test_overlapping_recordings_may_end_in_any_order() -> None:
    model = small_net()
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
    model, x = small_net(), batch()
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
    model = small_net()
    recorder = record(model)
    with recorder:
        model(batch())
    with recorder:
        model(batch())
        model(batch())
    assert len(called(recorder.recording)) == 8


def test_a_recording_is_not_there_before_the_block_ends() -> None:
    with record(small_net()) as recorder:
        with pytest.raises(RecorderError, match="ends"):
            _ = recorder.recording
        with pytest.raises(RecorderError, match="already"):
            recorder.__enter__()


def test_two_models_are_recorded_side_by_side() -> None:
    first, second = small_net(), small_net()
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
    model = small_net()
    with record(model) as recorder:
        output = model(batch())
    before = signals(recorder.recording)
    output.sum().backward()
    model(batch())
    assert signals(recorder.recording) == before
    assert recorder.recording.context.cotangent == "none"


def test_a_backward_of_a_graph_from_before_the_block_is_seen_in_the_weights() -> None:
    model = small_net()
    output = model(batch())
    with record(model) as recorder:
        output.sum().backward()
    assert called(recorder.recording) == []
    assert len(recorder.recording.select("weight_gradient")) == 4
    assert recorder.recording.context.cotangent == "user"


def test_modules_of_a_model_that_is_not_recorded_are_ignored() -> None:
    recorded, other = small_net(), small_net()
    with record(recorded) as recorder:
        other(batch()).sum().backward()
    assert len(recorder.recording.calls) == 0
    assert not recorder.recording.select("weight_gradient")
