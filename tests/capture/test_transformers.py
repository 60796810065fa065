"""Transformers of every family run the same to the last bit while they are recorded, and nothing of them is missed."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from headwater.capture import Problem
from headwater.recording import Recording
from tests.capture.bit_identity import (
    Case,
    Scenario,
    assert_observe_leaves_no_trace,
    assert_recording_changes_nothing,
    forward_and_backward,
)
from tests.capture.snapshots import random_seed
from tests.capture.transformers_models import MODEL_TYPES, ModelType
from tests.oracles.moments import assert_moments_match

EVERY_TYPE = pytest.mark.parametrize("model_type", MODEL_TYPES, ids=lambda model_type: model_type.model_class)


@EVERY_TYPE
def test_recording_changes_nothing_of(model_type: ModelType) -> None:
    ran: list[Case] = []

    def build() -> Case:
        return Case(model=model_type.build(), kwargs=model_type.inputs())

    def step(case: Case) -> Any:
        ran.append(case)
        return forward_and_backward(case)

    recording = assert_recording_changes_nothing(Scenario(build=build, step=step))
    model = ran[-1].model
    assert_every_gradient_was_measured(recording, model)
    assert_every_call_has_its_activation(recording)
    assert_what_never_ran_is_named(recording, model)


@EVERY_TYPE
def test_observe_leaves_no_trace_on(model_type: ModelType) -> None:
    random_seed(0)
    model, inputs = model_type.build(), model_type.inputs()
    recording = assert_observe_leaves_no_trace(Problem(model, inputs))
    assert any(parameter.received_gradient for parameter in recording.parameters)


@pytest.mark.parametrize("family", sorted({model_type.family for model_type in MODEL_TYPES}))
def test_an_evaluated_model_runs_the_same(family: str) -> None:
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.family == family)
    assert_recording_changes_nothing(
        Scenario(
            build=lambda: Case(model=model_type.build().eval(), kwargs=model_type.inputs()), step=forward_and_backward
        )
    )


def test_the_table_is_wide_enough() -> None:
    assert len({model_type.config_class for model_type in MODEL_TYPES}) >= 40
    families = {"decoder", "encoder", "encoder-decoder", "vision", "audio", "state space", "mixture of experts"}
    assert families <= {model_type.family for model_type in MODEL_TYPES}


def assert_every_gradient_was_measured(recording: Recording, model: nn.Module) -> None:
    """Each parameter that has a gradient has its statistics recorded, and no other has."""
    gradients = {signal.parameter: signal.stats for signal in recording.select("weight_gradient")}
    received = {p.name for p in recording.parameters if p.received_gradient}
    expected = {name: parameter for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients.keys() == expected.keys() == received
    for name, parameter in expected.items():
        assert_moments_match(gradients[name], parameter.grad, rtol=1e-6)
    for signal in recording.select("weight"):
        assert_moments_match(signal.stats, model.get_parameter(signal.parameter), rtol=1e-6)


def assert_every_call_has_its_activation(recording: Recording) -> None:
    """Each finished call with a floating output has an activation; those in the graph of the loss a gradient."""
    measured = {signal.depth for signal in recording.select("activation")}
    assert all(call.depth in measured for call in recording.calls if call.finished and call.output_is_floating)
    assert recording.calls[0].module == ""
    assert recording.select("activation_gradient", depth=0)


def assert_what_never_ran_is_named(recording: Recording, model: nn.Module) -> None:
    """A module with parameters of its own that was not called appears in the notes (the first five by name)."""
    called = {call.module for call in recording.calls}
    silent = [
        name
        for name, module in model.named_modules()
        if name not in called and next(module.parameters(recurse=False), None) is not None
    ]
    notes = " ".join(recording.context.notes)
    assert all(f"'{name}'" in notes for name in silent[:5]), (silent, recording.context.notes)


def test_a_model_output_keeps_the_names_of_its_parts() -> None:
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == "GPT2LMHeadModel")
    random_seed(0)
    recording = assert_observe_leaves_no_trace(Problem(model_type.build(), model_type.inputs()))
    items = {signal.item for signal in recording.select("activation", depth=0)}
    assert {"loss", "logits"} <= items
    assert recording.context.cotangent == "loss"
