from __future__ import annotations

import pytest

from headwater.analysis import depth_profile
from headwater.recording import RecordingBuilder
from tests.rules.recordings import Step, activation, chain, layers, of_norm


def test_rows_stand_in_execution_order_with_their_nesting():
    rows = depth_profile(chain([Step(), activation("Tanh"), Step()])).rows
    assert [(row.module, row.module_type, row.level, row.is_leaf) for row in rows] == [
        ("", "Sequential", 0, False),
        ("0", "Linear", 1, True),
        ("1", "Tanh", 1, True),
        ("2", "Linear", 1, True),
    ]


def test_a_row_holds_the_gains_of_its_call():
    row = depth_profile(chain([Step(), activation("Tanh", 0.25), Step(gain=0.4)], cotangent=3.0)).rows[2]
    assert row.backward_gain == pytest.approx(0.25)
    assert row.gain_decades == pytest.approx(-0.39794)
    assert row.activation_gradient.norm == pytest.approx(1.2)


def test_weights_are_told_from_what_has_none():
    first, second = depth_profile(chain([Step(weight_gradient=of_norm(2.0)), activation("Tanh")])).rows[1:]
    assert (first.has_weights, first.trains, second.has_weights) == (True, True, False)
    assert first.weight_gradient_mean_abs == pytest.approx(1.0)
    assert second.weight_gradient_mean_abs is None


def test_what_was_not_measured_is_none():
    row = depth_profile(chain([Step(), Step()])).rows[1]
    assert row.backward_gain is None


def test_an_empty_recording_has_an_empty_profile():
    profile = depth_profile(RecordingBuilder().build())
    assert profile.rows == ()
    assert profile.cotangent is None


def test_ten_thousand_calls_are_profiled():
    assert len(depth_profile(chain(layers(5_000, "ReLU", 0.7, 1.4))).rows) == 10_000
