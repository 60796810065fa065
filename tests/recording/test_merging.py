"""Merging passes of one model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.recording import Combine, Context, Recording, RecordingBuilder, SignalKind, TensorStats, merge
from headwater.recording.operation_merging import OF_OPERATIONS
from tests.recording.strategies import ANY_FLOAT, NAMES, recordings
from tests.recording.test_tensor_stats import assert_close

ITEMS = ["", "0", "2", "10", "logits"]
KINDS = [SignalKind.INPUT, SignalKind.ACTIVATION, SignalKind.ACTIVATION_GRADIENT, SignalKind.WEIGHT]


@st.composite
def passes(draw: st.DrawFn) -> Recording:
    """Passes of one and the same model, which measured different values and not always the same signals."""
    builder = RecordingBuilder()
    builder.add_module("", "Net", is_leaf=False)
    builder.add_module("layer", "Linear", parent=0)
    builder.add_call(0, finished=draw(st.booleans()))
    for depth in (1, 2):
        builder.add_call(1, parent=0, output_requires_grad=draw(st.booleans()))
        keys = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(ITEMS)), unique=True, max_size=5)
        for kind, item in draw(keys):
            measured = TensorStats.from_values(draw(st.lists(ANY_FLOAT, max_size=4)))
            builder.add_signal(1, kind, measured, depth=depth, item=item, tensor=draw(st.none() | st.integers(0, 3)))
        if draw(st.booleans()):
            builder.add_units(depth, draw(st.integers(1, 9)), [draw(ANY_FLOAT)], [draw(ANY_FLOAT)])
    for name, combine in (("sums", Combine.SUM), ("lows", Combine.MINIMUM), ("highs", Combine.MAXIMUM)):
        if draw(st.booleans()):
            values = draw(st.lists(ANY_FLOAT, max_size=3))
            builder.add_series(name, values, module=1, depth=draw(st.sampled_from([-1, 1])), combine=combine)
    builder.add_parameter(1, "layer.weight", received_gradient=draw(st.booleans()))
    context = Context(
        cotangent=draw(st.sampled_from(["loss", "none"])),
        loss=draw(st.sampled_from([None, 1.0, 2.0, math.nan])),
        step=draw(st.sampled_from([None, 1, 2])),
        devices=tuple(draw(st.lists(st.sampled_from(["cuda:0", "cpu"]), unique=True))),
        versions={"torch": draw(st.sampled_from(["2.6", "2.13.0"]))},
        backward_scale_exponent=draw(st.integers(0, 9)),
        notes=tuple(draw(st.lists(NAMES, max_size=2))),
    )
    return builder.build(context)


def assert_same(a: Recording, b: Recording) -> None:
    """Equal up to the rounding of sums."""
    assert replace(a.context, loss=None) == replace(b.context, loss=None)
    assert str(a.context.loss) == str(b.context.loss)
    assert (a.modules, a.calls, a.parameters) == (b.modules, b.calls, b.parameters)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert replace(x, stats=y.stats) == y
        assert_close(x.stats, y.stats)
    for one, other in zip(a.all_series, b.all_series, strict=True):
        assert (one.name, one.module, one.depth, one.item) == (other.name, other.module, other.depth, other.item)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-12)
    assert np.array_equal(a.unit_table, b.unit_table)
    assert np.array_equal(a.unit_minimum, b.unit_minimum, equal_nan=True)
    assert np.array_equal(a.unit_maximum, b.unit_maximum, equal_nan=True)


@given(passes(), passes())
def test_merging_is_commutative(a, b):
    assert merge(a, b) == merge(b, a)


@given(passes(), passes(), passes())
def test_merging_is_associative(a, b, c):
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))
    assert_same(merge(a, b, c), merge(merge(a, b), c))


@given(recordings())
def test_one_recording_merges_to_itself(recording):
    assert merge(recording) is recording


@given(recordings(contexts=st.just(Context())))
def test_twice_the_same_pass_doubles_the_counts_and_keeps_the_rms_and_the_order(recording):
    twice = merge(recording, recording)
    assert [(s.module, s.depth, s.kind, s.item) for s in twice] == [
        (s.module, s.depth, s.kind, s.item) for s in recording
    ]
    for one, two in zip(recording, twice, strict=True):
        assert two.stats.numel == 2 * one.stats.numel
        assert two.stats.rms == pytest.approx(one.stats.rms, rel=1e-14, abs=0, nan_ok=True)


def one_pass(value: float, *, gradient: float | None = None, shape: tuple[int, ...] = (1,)) -> Recording:
    builder = RecordingBuilder()
    builder.add_module("", "Net", is_leaf=False)
    builder.add_module("layer", "Linear", parent=0)
    builder.add_call(0)
    builder.add_call(1, parent=0)
    output = builder.add_signal(1, SignalKind.ACTIVATION, TensorStats.from_values([value]), depth=1, shape=shape)
    if gradient is not None:
        measured = TensorStats.from_values([gradient])
        builder.add_signal(1, SignalKind.ACTIVATION_GRADIENT, measured, depth=1, tensor=output)
    builder.add_signal(0, SignalKind.ACTIVATION, TensorStats.from_values([value]), depth=0, tensor=output)
    builder.add_parameter(1, "layer.weight", received_gradient=gradient is not None)
    builder.add_units(1, 4, [value], [value])
    return builder.build(Context(model_type="Net", loss=value))


def test_the_passes_elements_are_taken_together():
    merged = merge(one_pass(3.0), one_pass(-4.0), one_pass(12.0))
    stats = merged.signal("activation", 1)
    assert stats is not None
    assert (stats.numel, stats.norm, stats.max_abs) == (3, 13.0, 12.0)
    (units,) = merged.units
    assert (units.num_samples, units.minimum.tolist(), units.maximum.tolist()) == (12, [-4.0], [12.0])


def test_series_are_combined_entry_by_entry():
    def with_series(*values):
        builder = RecordingBuilder()
        builder.add_module("", "Net")
        for combine in Combine:
            builder.add_series("steps", values, combine=combine)
        return builder.build()

    merged = merge(with_series(1.0, 5.0), with_series(3.0))
    assert {s.combine: s.values.tolist() for s in merged.series("steps")} == {
        Combine.SUM: [4.0, 5.0],
        Combine.MINIMUM: [1.0, 5.0],
        Combine.MAXIMUM: [3.0, 5.0],
    }


def test_a_gradient_of_one_pass_is_kept_with_its_forward_tensor():
    merged = merge(one_pass(1.0), one_pass(2.0, gradient=5.0))
    (gradient,) = merged.select("activation_gradient")
    assert gradient.stats.norm == 5.0
    assert {s.tensor for s in merged} == {gradient.tensor}
    assert merged.parameters[0].received_gradient


def test_the_larger_shape_stands_for_both():
    merged = merge(one_pass(1.0, shape=(3, 8)), one_pass(1.0, shape=(32, 8)))
    assert merged.select("activation", depth=1)[0].shape == (32, 8)


def test_a_loss_is_kept_where_the_passes_agree():
    assert merge(one_pass(1.0), one_pass(1.0)).context.loss == 1.0
    assert merge(one_pass(1.0), one_pass(2.0)).context.loss is None


def test_nan_extremes_stay_visible():
    (units,) = merge(one_pass(math.nan), one_pass(1.0)).units
    assert np.isnan(units.minimum).all()
    assert np.isnan(units.maximum).all()


def test_nothing_to_merge_is_refused():
    with pytest.raises(ValueError, match="at least one recording"):
        merge()


def different(change: str) -> Recording:
    builder = RecordingBuilder()
    builder.add_module("", "Net", is_leaf=False)
    builder.add_module("layer", "Conv2d" if change == "type" else "Linear", parent=0, training=change != "mode")
    if change == "name":
        builder.add_module("more", "ReLU", parent=0)
    for module in (0, 1, 1) if change == "calls" else (0, 1):
        builder.add_call(module, parent=module - 1)
    dtype = "bfloat16" if change == "dtype" else "float32"
    builder.add_signal(1, SignalKind.ACTIVATION, TensorStats.from_values([1.0]), depth=1, dtype=dtype)
    builder.add_parameter(1, "layer.bias" if change == "parameter" else "layer.weight")
    builder.add_units(1, 4, [0.0] * (2 if change == "units" else 1), [0.0] * (2 if change == "units" else 1))
    cotangent = "random" if change == "cotangent" else "loss"
    return builder.build(Context(model_type="Other" if change == "model" else "Net", cotangent=cotangent))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("type", "module 1 is 'layer', a Linear in training mode in one and 'layer', a Conv2d in training mode in the"),
        ("mode", "module 1 is 'layer', a Linear in training mode in one and 'layer', a Linear in evaluation mode in"),
        ("name", "module 2 is nothing in one and 'more', a ReLU in training mode in the other"),
        ("calls", "call 2 is nothing in one and 'layer' called from depth 0 in the other"),
        ("dtype", "the activation of 'layer' was recorded as bfloat16 and as float32"),
        ("parameter", "parameter 0 is 'layer.weight' in one and 'layer.bias' in the other"),
        ("units", "call 1 has 1 and 2 units"),
        ("cotangent", "different cotangents: loss and random"),
        ("model", "different models: 'Net' and 'Other'"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_the_first_difference(change, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        merge(different(""), different(change))
    assert str(caught.value).startswith("cannot merge")
    assert "\n" not in str(caught.value)


def _with_operations(*names):
    """One call, these operations in it, and for each a series that holds its index."""
    builder = RecordingBuilder()
    builder.add_call(builder.add_module("", "Linear"))
    for name in names:
        index = builder.add_operation(name, depth=0, is_cut=True)
        for series in OF_OPERATIONS:
            builder.add_series(series, [index], item=name, combine=Combine.MAXIMUM)
    return builder.build()


def test_where_passes_ran_other_operations_nothing_points_to_them():
    merged = merge(_with_operations("torch.tanh", "for"), _with_operations("for"))
    assert merged.operations == ()
    assert [series.name for series in merged.all_series] == []
    same = merge(*[_with_operations("torch.tanh", "for")] * 3)
    assert len(same.operations) == 2
    assert {one.item: one.values.tolist() for one in same.series("left_out_by_a_loop")} == {
        "torch.tanh": [0],
        "for": [1],
    }
