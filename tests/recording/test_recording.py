"""What a recording answers about a hand-built pass, and that nobody can change it afterwards."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given

from headwater.recording import Context, Recording, RecordingBuilder, Signal, SignalKind, TensorStats
from tests.recording.strategies import recordings


def two_layer_recording() -> Recording:
    """A root (depth 0) that calls a linear layer twice (1 and 2) and owns a parameter that never ran."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Net", is_leaf=False)
    layer = builder.add_module("layer", "Linear", parent=root)
    unused = builder.add_module("unused", "Linear", parent=root, training=False)
    top = builder.add_call(root)
    output = None
    for value in (3.0, 5.0):
        depth = builder.add_call(layer, parent=top)
        builder.add_signal(layer, SignalKind.INPUT, stats([1.0]), depth=depth, tensor=output)
        output = builder.add_signal(layer, SignalKind.ACTIVATION, stats([value]), depth=depth, shape=(1, 1))
    builder.add_signal(root, SignalKind.ACTIVATION, stats([5.0]), depth=top, item="0", tensor=output)
    builder.add_signal(root, SignalKind.ACTIVATION, stats([12.0]), depth=top, item="1")
    builder.add_signal(layer, SignalKind.WEIGHT, stats([2.0]), depth=1, item="weight")
    builder.add_signal(unused, SignalKind.WEIGHT, stats([2.0]), item="weight", dtype="bfloat16")
    builder.add_parameter(layer, "layer.weight", shape=(4, 2))
    builder.add_parameter(unused, "unused.weight", received_gradient=False)
    builder.add_units(1, 8, [-1.0, 0.0], [1.0, 2.0])
    return builder.build(Context(model_type="Net"))


def stats(values: list[float]) -> TensorStats:
    return TensorStats.from_values(values)


def test_calls_stand_in_execution_order_and_are_numbered_per_module():
    recording = two_layer_recording()
    assert [(call.module, call.call, call.depth, call.parent) for call in recording.calls] == [
        ("", 0, 0, -1),
        ("layer", 0, 1, 0),
        ("layer", 1, 2, 0),
    ]
    assert recording.calls[2].module_type == "Linear"


def test_children_are_the_calls_that_a_call_made():
    recording = two_layer_recording()
    assert list(recording.children(0)) == [1, 2]
    assert list(recording.children(-1)) == [0]
    assert list(recording.children(2)) == []


def test_modules_know_their_parents_and_modes():
    modules = two_layer_recording().modules
    assert [(m.name, m.type, m.parent, m.training, m.is_leaf) for m in modules] == [
        ("", "Net", None, True, False),
        ("layer", "Linear", "", True, True),
        ("unused", "Linear", "", False, True),
    ]


def test_parameters_carry_their_full_names():
    recording = two_layer_recording()
    assert [(p.module, p.name, p.shape, p.received_gradient) for p in recording.parameters] == [
        ("layer", "layer.weight", (4, 2), True),
        ("unused", "unused.weight", (1,), False),
    ]
    weights = recording.select("weight")
    assert [w.parameter for w in weights] == ["layer.weight", "unused.weight"]
    assert weights[1].dtype == "bfloat16"
    assert weights[1].depth == -1


def test_units_belong_to_their_call():
    (units,) = two_layer_recording().units
    assert (units.depth, units.num_samples) == (1, 8)
    assert units.minimum.tolist() == [-1.0, 0.0]
    assert units.maximum.tolist() == [1.0, 2.0]


def test_one_tensor_seen_in_two_places_has_one_number():
    recording = two_layer_recording()
    of = {(s.module, s.call, s.kind, s.item): s.tensor for s in recording}
    assert of["layer", 0, SignalKind.ACTIVATION, ""] == of["layer", 1, SignalKind.INPUT, ""]
    assert of["layer", 1, SignalKind.ACTIVATION, ""] == of["", 0, SignalKind.ACTIVATION, "0"]
    assert len(set(of.values())) == 6


def test_selecting_by_kind_module_and_depth():
    recording = two_layer_recording()
    assert [s.stats.sum for s in recording.select("activation")] == [3.0, 5.0, 5.0, 12.0]
    assert [s.stats.sum for s in recording.select("activation", module="layer")] == [3.0, 5.0]
    assert [s.stats.sum for s in recording.select(SignalKind.ACTIVATION, depth=2)] == [5.0]
    assert [s.item for s in recording.select("activation", module="")] == ["0", "1"]
    assert recording.select("activation", module="layer", depth=0) == []
    assert recording.select(module="nothing of that name") == []
    assert recording.select(depth=99) == []
    assert recording.select() == list(recording)
    assert len(recording.select()) == len(recording) == 8


@pytest.mark.parametrize("where", [{}, {"depth": 0}, {"module": "layer"}])
def test_an_unknown_kind_is_refused_wherever_it_is_looked_for(where):
    with pytest.raises(ValueError, match="activations"):
        two_layer_recording().select("activations", **where)


def test_a_calls_signal_is_merged_over_its_items():
    recording = two_layer_recording()
    merged = recording.signal("activation", 0)
    assert merged is not None
    assert merged.norm == 13.0
    assert recording.signal("activation_gradient", 0) is None


@given(recordings())
def test_every_selection_is_what_a_plain_filter_finds(recording):
    everything: list[Signal] = list(recording)
    for kind in SignalKind:
        assert recording.select(kind) == [s for s in everything if s.kind == kind]
        for depth in range(-1, len(recording.calls)):
            assert recording.select(kind, depth=depth) == [s for s in everything if (s.kind, s.depth) == (kind, depth)]
        for module in recording.module_names:
            assert recording.select(kind, module=module) == [
                s for s in everything if (s.kind, s.module) == (kind, module)
            ]


@given(recordings())
def test_every_call_is_the_child_of_its_caller(recording):
    found = {child: parent for parent in range(-1, len(recording.calls)) for child in recording.children(parent)}
    assert found == {call.depth: call.parent for call in recording.calls}


def test_a_recording_is_frozen():
    recording = two_layer_recording()
    with pytest.raises(FrozenInstanceError):
        recording.context = Context()
    for array in (recording.signal_table, recording.call_table, recording.unit_minimum, recording.units[0].maximum):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[0]


def test_equality_is_by_content_and_a_nan_loss_is_itself():
    assert two_layer_recording() == two_layer_recording()
    assert two_layer_recording() != "a recording"
    a, b = (replace(two_layer_recording(), context=Context(loss=float("nan"))) for _ in range(2))
    assert a == b
    assert a != replace(a, context=Context(loss=0.0))
    assert a != replace(a, context=Context(loss=float("nan"), step=1))
    assert a != replace(a, unit_minimum=np.array([-1.0, 0.5]))


def test_equality_does_not_depend_on_how_the_string_tables_are_ordered():
    first, second = RecordingBuilder(), RecordingBuilder()
    for builder in (first, second):
        builder.add_module("", "A" if builder is first else "B")
    assert first.build() != second.build()
    third = RecordingBuilder()
    third._string("something else first")
    third.add_module("", "A")
    assert first.build() == third.build()


def test_a_recording_survives_pickling_between_processes():
    recording = two_layer_recording()
    assert pickle.loads(pickle.dumps(recording)) == recording


def test_an_empty_recording_answers_too():
    recording = RecordingBuilder().build()
    assert (len(recording), list(recording.calls), list(recording.modules), list(recording.units)) == (0, [], [], [])
    assert recording.select("weight") == []
    assert recording.signal("weight", 0) is None
    assert repr(recording) == "<Recording of a model: 0 modules, 0 calls, 0 signals>"


def test_its_repr_counts_what_is_in_it():
    assert repr(two_layer_recording()) == "<Recording of Net: 3 modules, 3 calls, 8 signals>"
