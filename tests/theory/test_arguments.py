"""Formulas have a domain: outside of it there is no number, and inside of it none overflows."""

from __future__ import annotations

import math

import pytest

from headwater.theory.activations import TANH
from headwater.theory.mean_field import critical_weight_variance
from headwater.theory.recurrent import gru_gain, lstm_gain, rnn_gain
from headwater.theory.shattering import gradient_correlation, gradient_correlation_with_shortcuts
from headwater.theory.spectrum import fuss_catalan_moment


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (critical_weight_variance, (TANH, -1.0), "bias variance that is a number and not negative, got -1.0"),
        (critical_weight_variance, (TANH, math.nan), "got nan"),
        (rnn_gain, (1.5, -1), "got -1"),
        (lstm_gain, (0.0, -1), "got -1"),
        (gru_gain, (0.0, -1), "got -1"),
        (gradient_correlation, (2.0, 3), "correlation between -1 and 1, got 2.0"),
        (gradient_correlation, (0.5, -3), "got -3"),
        (gradient_correlation_with_shortcuts, (math.nan, 3), "got nan"),
        (gradient_correlation_with_shortcuts, (0.5, -3), "got -3"),
        (fuss_catalan_moment, (-1, 2), "at least 1 layer, got -1"),
    ],
)
def test_what_a_formula_is_not_about_is_refused(function, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        function(*arguments)


def test_gates_that_are_shut_or_open_have_gains_of_zero_and_one():
    assert lstm_gain(-1000.0, 3) == 0.0
    assert gru_gain(1000.0, 3) == 1.0
    assert lstm_gain(-1.0, 1) == pytest.approx(1.0 / (1.0 + math.e), rel=1e-15)
