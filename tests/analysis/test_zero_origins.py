from __future__ import annotations

from headwater.analysis.dataflow import dataflow
from headwater.analysis.zero_origins import ZeroOrigin, zero_origins
from headwater.recording import RecordingBuilder, SignalKind
from tests.rules.recordings import Step, activation, chain, layers, of_norm


def _origins(recording):
    return zero_origins(recording, dataflow(recording))


def _functional(*gradients):
    """Calls of one caller with something of no module between them, and the gradients at their outputs."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    top = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
    for index, gradient in enumerate(gradients):
        module = builder.add_module(str(index), "Linear", parent=root)
        depth = builder.add_call(module, parent=top)
        builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=depth)
        made = builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(gradient), depth=depth, tensor=made)
    return builder.build()


def test_nothing_is_zero_in_a_healthy_chain():
    assert _origins(chain(layers(4, "Tanh", 0.5))) == []


def test_a_call_that_passes_nothing_on_is_an_origin_and_what_is_before_it_is_not():
    recording = chain([Step(), activation("Tanh"), activation("Round", 0.0), Step()])
    assert _origins(recording) == [ZeroOrigin(3, is_after=False)]


def test_each_of_two_such_calls_is_found_only_if_a_gradient_reaches_it():
    recording = chain([Step(), activation("Round", 0.0), Step(), activation("Round", 0.0), Step()])
    assert _origins(recording) == [ZeroOrigin(4, is_after=False)]


def test_between_calls_the_last_one_with_a_zero_gradient_is_where_it_begins():
    assert _origins(_functional(0.0, 0.0, 0.0, 1.0)) == [ZeroOrigin(3, is_after=True)]


def test_behind_the_last_call_it_is_the_callers_own_doing():
    assert _origins(_functional(0.0, 0.0)) == [ZeroOrigin(2, is_after=True)]
