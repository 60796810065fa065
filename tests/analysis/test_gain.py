from __future__ import annotations

import math

import pytest

from headwater.analysis import backward_gain, cotangent, forward_gain, gain_from_output_decades
from headwater.recording import Context, RecordingBuilder, SignalKind, TensorStats
from tests.rules.recordings import Step, chain, of_norm

LAYERS = [Step(gain=0.5), Step(gain=0.1), Step(gain=2.0)]


def _returning(*outputs, leaf=None, context=None):
    """A model whose call returns tensors (norm, shape), each of which got a gradient of that norm."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=leaf is None)
    top = builder.add_call(root)
    if leaf is not None:
        module = builder.add_module("head", "Linear", parent=root)
        depth = builder.add_call(module, parent=top)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(leaf), depth=depth, shape=(2, 2))
    for item, (norm, shape) in enumerate(outputs):
        stats = of_norm(norm, math.prod(shape))
        builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, stats, depth=top, item=str(item), shape=shape)
    return builder.build(context or Context(cotangent="loss"))


def test_a_backward_gain_is_a_ratio_of_norms():
    recording = chain(LAYERS)
    assert [backward_gain(recording, depth) for depth in (2, 3)] == pytest.approx([0.1, 2.0])


def test_a_call_whose_input_needs_no_gradient_has_no_gain():
    assert math.isnan(backward_gain(chain(LAYERS), 1))


def test_a_zero_gradient_at_the_output_gives_no_gain():
    assert math.isnan(backward_gain(chain(LAYERS, cotangent=0.0), 2))


def test_gains_hold_where_squares_leave_float64():
    recording = chain([Step(), Step(gain=1e-3), Step(gain=1e-280)], cotangent=1e-20)
    assert backward_gain(recording, 2) == pytest.approx(1e-3)
    assert gain_from_output_decades(recording, 1) == pytest.approx(-283.0)


def test_the_forward_gain_compares_rms_and_not_norms():
    recording = chain([Step(output=of_norm(4.0, numel=16))])
    assert forward_gain(recording, 1) == pytest.approx(1.0 / 0.5)


def test_gains_from_the_output_add_up_along_a_chain():
    recording = chain(LAYERS)
    gains = [gain_from_output_decades(recording, depth) for depth in range(4)]
    assert gains == pytest.approx([0.0, math.log10(0.2), math.log10(2.0), 0.0])


def test_an_exactly_zero_gradient_is_minus_infinitely_many_decades():
    assert gain_from_output_decades(chain([Step(), Step(gain=0.0)]), 1) == -math.inf


def test_the_cotangent_is_that_of_all_outputs_together():
    assert cotangent(_returning((3.0, (2, 2)), (4.0, (2, 3)))).norm == pytest.approx(5.0)


def test_a_loss_beside_the_output_does_not_count():
    assert cotangent(_returning((1.0, ()), (4.0, (2, 3)))).norm == pytest.approx(4.0)


def test_one_output_of_one_unit_counts_although_it_is_one_number():
    assert cotangent(_returning((0.25, (1, 1)), leaf=9.0)).norm == pytest.approx(0.25)


def test_a_model_that_returns_its_loss_alone_is_judged_from_its_last_leaf_call():
    assert cotangent(_returning((1.0, ()), leaf=0.5)).norm == pytest.approx(0.5)


def test_without_anything_else_the_loss_itself_counts():
    assert cotangent(_returning((1.0, ()))).norm == 1.0


def test_no_backward_pass_has_no_cotangent():
    assert cotangent(RecordingBuilder().build()) is None


@pytest.mark.parametrize(("source", "norm"), [("loss", 3.0), ("random", 5.0)])
def test_a_hidden_state_that_the_head_reads_counts_only_if_probes_were_sent_to_it(source, norm):
    builder = RecordingBuilder()
    root, head = builder.add_module("", "Model", is_leaf=False), builder.add_module("head", "Linear", parent=0)
    top = builder.add_call(root)
    depth = builder.add_call(head, parent=top)
    hidden = builder.add_signal(head, SignalKind.INPUT, of_norm(1.0), depth=depth)
    for item, (tensor, value) in enumerate(((hidden, 4.0), (None, 3.0))):
        stats = of_norm(value)
        builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, stats, depth=top, item=str(item), tensor=tensor)
    assert cotangent(builder.build(Context(cotangent=source))).norm == pytest.approx(norm)


def test_several_items_of_one_call_are_one_gradient():
    builder = RecordingBuilder()
    module, depth = builder.add_module("", "LSTM"), builder.add_call(0)
    for item, value in (("0", 3.0), ("1", 4.0)):
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(value), depth=depth, item=item)
    builder.add_signal(module, SignalKind.INPUT_GRADIENT, TensorStats.from_values([10.0]), depth=depth)
    assert backward_gain(builder.build(), depth) == pytest.approx(2.0)
