from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.analysis.gradient_path import (
    Layer,
    decades_by_module_type,
    headwaters,
    is_chain,
    leaf_calls,
    median_decades,
    pooling_decades,
    rate_decades_per_layer,
    trainable_layers,
)
from headwater.recording import Context, RecordingBuilder, SignalKind
from tests.rules.recordings import Step, activation, chain, layers, of_norm


def _gains(recording):
    return [layer.gain_decades for layer in trainable_layers(recording)]


def test_only_leaf_calls_that_train_are_layers():
    recording = chain([Step(), activation("Tanh", 0.1), Step(), activation("Tanh", 0.1)])
    assert [layer.call.module for layer in trainable_layers(recording)] == ["0", "2"]
    assert _gains(recording) == pytest.approx([-2.0, -1.0])


def test_a_frozen_module_is_no_layer():
    assert _gains(chain([Step(trains=False), Step()])) == pytest.approx([0.0])


def test_a_module_with_parameters_of_a_child_that_it_does_not_call_is_a_layer():
    builder = RecordingBuilder()
    root = builder.add_module("", "MultiheadAttention", is_leaf=False)
    child = builder.add_module("out_proj", "Linear", parent=root)
    depth = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=depth)
    builder.add_parameter(child, "out_proj.weight")
    assert [layer.call.module for layer in trainable_layers(builder.build())] == [""]


def test_a_caller_with_parameters_of_its_own_is_no_layer():
    builder = RecordingBuilder()
    root, child = builder.add_module("", "Model", is_leaf=False), builder.add_module("a", "Linear", parent=0)
    top = builder.add_call(root)
    depth = builder.add_call(child, parent=top)
    for module, at in ((root, top), (child, depth)):
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=at)
        builder.add_parameter(module, f"{module}.weight")
    assert [layer.call.module for layer in trainable_layers(builder.build())] == ["a"]


def _passes(num_passes):
    """Two layers, of which the first gets a hundredth of the gradient, run several times."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    modules = [builder.add_module(name, "Linear", parent=root) for name in "01"]
    for module in modules:
        builder.add_parameter(module, f"{module}.weight")
    for _ in range(num_passes):
        top = builder.add_call(root)
        builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
        for module, norm in zip(modules, (0.01, 1.0), strict=True):
            depth = builder.add_call(module, parent=top)
            builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(norm), depth=depth)
    return builder.build(Context(cotangent="user"))


@pytest.mark.parametrize("num_passes", [1, 2, 100])
def test_several_passes_are_one_joint_batch_and_not_more_layers(num_passes):
    assert _gains(_passes(num_passes)) == pytest.approx([-2.0, 0.0])


def _unrolled(num_steps):
    builder = RecordingBuilder()
    root, cell = builder.add_module("", "Recurrent", is_leaf=False), builder.add_module("cell", "RNNCell", parent=0)
    builder.add_parameter(cell, "cell.weight")
    top = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
    for step in range(num_steps):
        depth = builder.add_call(cell, parent=top)
        norm = 0.1 ** (num_steps - 1 - step)
        builder.add_signal(cell, SignalKind.ACTIVATION_GRADIENT, of_norm(norm), depth=depth)
    return builder.build()


def test_a_cell_that_is_unrolled_is_a_layer_at_each_step():
    assert _gains(_unrolled(4)) == pytest.approx([-3.0, -2.0, -1.0, 0.0])


def test_the_headwaters_are_the_earliest_tenth_of_what_is_not_exactly_zero():
    recording = chain([Step() for _ in range(40)])
    assert len(headwaters(trainable_layers(recording))) == 4
    assert len(headwaters(trainable_layers(chain([Step(), Step()])))) == 1
    blocked = trainable_layers(chain([Step(), Step(gain=0.0), Step()]))
    assert [layer.call.module for layer in headwaters(blocked)] == ["1"]


def test_the_median_of_nothing_is_unknown():
    assert math.isnan(median_decades([]))
    assert median_decades([3.0, 1.0]) == 1.0


@given(gain=st.floats(0.05, 3.0), num_layers=st.integers(2, 30))
def test_the_rate_of_equal_layers_is_that_of_each(gain, num_layers):
    found = trainable_layers(chain([Step(gain=gain)] * num_layers))
    assert rate_decades_per_layer(found) == pytest.approx(math.log10(gain), abs=1e-9)


def test_one_layer_has_no_rate():
    assert math.isnan(rate_decades_per_layer(trainable_layers(chain([Step()]))))


def test_shares_of_a_chain_add_up_to_the_gain():
    recording = chain(layers(6, "Sigmoid", 0.25, weight_gain=0.5))
    shares = decades_by_module_type(recording, after=1)
    assert [(share.module_type, share.num_calls) for share in shares] == [("Sigmoid", 5), ("Linear", 5)]
    assert sum(share.decades for share in shares) == pytest.approx(_gains(recording)[0])


def test_what_is_lost_between_modules_has_a_share():
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    top = builder.add_call(root)
    for index, (outgoing, incoming) in enumerate(((0.01, None), (0.5, 0.1))):
        module = builder.add_module(str(index), "Linear", parent=root)
        depth = builder.add_call(module, parent=top)
        builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=depth)
        builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(outgoing), depth=depth)
        if incoming is not None:
            builder.add_signal(module, SignalKind.INPUT_GRADIENT, of_norm(incoming), depth=depth)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
    shares = {share.module_type: share for share in decades_by_module_type(builder.build(), after=1)}
    assert shares[""].num_calls == 2
    assert shares[""].decades == pytest.approx(math.log10(0.01 / 0.1) + math.log10(0.5 / 1.0))
    assert sum(share.decades for share in shares.values()) == pytest.approx(-2.0)


def test_a_tensor_that_two_calls_read_breaks_the_chain():
    builder = RecordingBuilder()
    for name in "ab":
        module = builder.add_module(name, "Linear")
        builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=builder.add_call(module), tensor=0)
    assert not is_chain(builder.build())
    assert is_chain(chain(layers(3, "Tanh", 1.0)))


def test_leaf_calls_called_nobody():
    assert [call.module for call in leaf_calls(chain([Step(), activation("Tanh")]))] == ["0", "1"]


def _pooled(*, whole, lost=0.5, before=None):
    """A pooling of 16 elements to 4 whose input, made by a call or not, has a gradient of a certain norm."""
    builder = RecordingBuilder()
    conv, pool = builder.add_module("conv", "Conv2d"), builder.add_module("pool", "AvgPool2d")
    first, depth = builder.add_call(conv), builder.add_call(pool)
    tensor = builder.add_signal(conv, SignalKind.ACTIVATION, of_norm(1.0, 16), depth=first)
    gradient = of_norm(before if whole is None else whole, 16)
    builder.add_signal(conv, SignalKind.ACTIVATION_GRADIENT, gradient, depth=first, tensor=tensor)
    source = tensor if whole is not None else tensor + 1
    builder.add_signal(pool, SignalKind.INPUT, of_norm(1.0, 16), depth=depth, tensor=source)
    builder.add_signal(pool, SignalKind.INPUT_GRADIENT, of_norm(lost, 16), depth=depth, tensor=source)
    builder.add_signal(pool, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
    builder.add_signal(pool, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=depth)
    return builder.build()


def test_pooling_on_the_only_way_costs_what_its_geometry_says():
    assert pooling_decades(_pooled(whole=0.5)) == pytest.approx(math.log10(0.5))


def test_pooling_never_counts_for_more_than_it_lost():
    assert pooling_decades(_pooled(whole=0.9, lost=0.9)) == pytest.approx(math.log10(0.9))


def test_pooling_beside_the_main_path_does_not_count():
    assert pooling_decades(_pooled(whole=10.0)) == 0.0


def test_pooling_of_a_tensor_that_no_module_made_is_compared_with_the_call_before():
    assert pooling_decades(_pooled(whole=None, before=0.35)) == pytest.approx(math.log10(0.5))
    assert pooling_decades(_pooled(whole=None, before=10.0)) == 0.0


def test_a_layer_in_a_scaled_branch_is_reached_through_its_blocks_input():
    builder = RecordingBuilder()
    root, block = builder.add_module("", "Model", is_leaf=False), builder.add_module("b", "Block", parent=0)
    inner = builder.add_module("b.fc", "Linear", parent=block)
    builder.add_parameter(inner, "b.fc.weight")
    top = builder.add_call(root)
    at_block = builder.add_call(block, parent=top)
    depth = builder.add_call(inner, parent=at_block)
    for module, at, kind, norm in (
        (root, top, SignalKind.ACTIVATION_GRADIENT, 1.0),
        (block, at_block, SignalKind.INPUT_GRADIENT, 0.8),
        (inner, depth, SignalKind.ACTIVATION_GRADIENT, 1e-6),
    ):
        builder.add_signal(module, kind, of_norm(norm), depth=at)
    (layer,) = trainable_layers(builder.build())
    assert isinstance(layer, Layer)
    assert layer.gain_decades == pytest.approx(-6.0)
    assert layer.reach_decades == pytest.approx(math.log10(0.8))
