from __future__ import annotations

import math

from headwater.analysis.dataflow import dataflow
from headwater.analysis.nonfinite_origins import backward_origin, forward_origin
from headwater.recording import TensorStats
from tests.rules.recordings import Step, activation, chain, changed

NAN = TensorStats.from_values([math.nan])


def _with(*places):
    base = chain([Step(), activation("Exp"), Step()])
    return changed(base, lambda s: NAN if (str(s.kind), s.depth) in places else s.stats)


def test_a_finite_pass_has_no_origin():
    recording = _with()
    assert forward_origin(recording, dataflow(recording)) is None
    assert backward_origin(recording) is None


def test_forward_the_first_call_that_makes_it_counts():
    recording = _with(("activation", 2), ("input", 3), ("activation", 3), ("activation", 0))
    origin = forward_origin(recording, dataflow(recording))
    assert origin is not None
    assert (origin.depth, origin.is_between) == (2, False)


def test_backward_the_last_call_that_makes_it_counts():
    origin = backward_origin(_with(("input_gradient", 2), ("activation_gradient", 1), ("weight_gradient", 1)))
    assert origin is not None
    assert (origin.depth, origin.is_between) == (2, False)


def test_backward_a_gradient_that_arrives_broken_was_broken_behind_the_call():
    origin = backward_origin(_with(("activation_gradient", 2), ("input_gradient", 2), ("activation_gradient", 1)))
    assert origin is not None
    assert (origin.depth, origin.is_between) == (2, True)


def test_a_parameters_own_gradient_is_named():
    origin = backward_origin(_with(("weight_gradient", 3)))
    assert origin is not None
    assert (origin.depth, origin.parameter) == (3, "2.weight")
