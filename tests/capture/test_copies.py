"""Copies of outputs and models made while a recording runs."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from headwater.capture import record
from tests.capture.bit_identity import (
    Case,
    recording_of,
)
from tests.capture.hostile_models import batch
from tests.capture.signals import called, has


def test_outputs_can_be_copied_and_pickled_during_and_after_a_recording() -> None:
    def step(case: Case) -> Any:
        output = case.model(*case.args)
        detached = output.detach()
        copies = (copy.deepcopy(detached), copy.copy(output), pickle.loads(pickle.dumps(detached)))
        output.sum().backward()
        return copies, copy.deepcopy(case.args[0])

    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), lambda: torch.randn(5, 4, requires_grad=True), step=step
    )
    assert called(recording) == ["", "0", "1"]
    assert has(recording, "weight_gradient", "0")


def test_outputs_can_be_saved_during_a_recording() -> None:
    def step(case: Case) -> Any:
        file = io.BytesIO()
        output = case.model(*case.args)
        torch.save(output, file)
        file.seek(0)
        return torch.load(file)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert called(recording) == ["", "0", "1"]


def test_a_model_can_be_copied_and_pickled_during_a_recording() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    with record(model) as recorder:
        model(batch()).sum().backward()
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for copied in copies:
            copied(batch()).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]
    for copied in [*copies, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]:
        assert copied(batch()).shape == (5, 3)
        assert not copied[0]._forward_hooks


def test_a_model_can_be_copied_in_the_middle_of_its_forward() -> None:
    class CopiesItself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            copied = copy.deepcopy(self)
            return x + copied.layer(x.detach()).detach()

    assert called(recording_of(CopiesItself, batch)) == ["", "layer"]
