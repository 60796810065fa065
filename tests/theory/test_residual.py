"""Growth over blocks with shortcuts, in closed form; simulated networks stand in tests/lab/simulation."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.theory.activations import LINEAR, RELU, TANH
from headwater.theory.batch_norm import chi_with_batch_norm, varying_share
from headwater.theory.mean_field import chi_with_shortcut, shortcut_growth
from headwater.theory.residual import (
    Growth,
    dense_growth,
    highway_growth,
    identity_growth,
    learned_growth,
    post_norm_growth,
    post_norm_last_gradient,
    pre_norm_growth,
    pre_norm_last_gradient,
    scaled_growth,
)

GAINS = st.floats(0.01, 4.0)


def test_the_three_numbers_everybody_quotes():
    assert identity_growth(12).signal == 2.0**12
    assert scaled_growth(100_000).signal == pytest.approx(math.e, rel=1e-4)
    assert pre_norm_growth(12).signal == pytest.approx(13.0)


@given(st.integers(0, 50), GAINS, GAINS, st.floats(-2.0, 2.0))
def test_identity_shortcuts_agree_with_the_factor_of_one_block(num_blocks, gain, chi, scale):
    found = identity_growth(num_blocks, gain=gain, chi=chi, scale=scale)
    assert found.signal == pytest.approx(shortcut_growth(num_blocks, scale, gain))
    assert found.gradient == pytest.approx(chi_with_shortcut(chi, scale) ** num_blocks)


def test_rezero_starts_as_the_identity():
    assert learned_growth([0.0] * 1000, gain=3.0, chi=5.0) == Growth(1.0, 1.0)


@given(st.integers(1, 30), st.floats(-8.0, 8.0))
def test_a_highway_between_open_and_shut_is_between_branch_and_identity(num_blocks, bias):
    found = highway_growth(num_blocks, bias, gain=0.5, chi=0.25)
    gate = 1.0 / (1.0 + math.exp(-bias))
    assert found.signal == pytest.approx(((1.0 - gate) ** 2 + 0.5 * gate**2) ** num_blocks)
    assert found.gradient == pytest.approx(((1.0 - gate) ** 2 + 0.25 * gate**2) ** num_blocks)


def test_gates_that_look_at_their_input_pass_gradient_themselves():
    still, looking = highway_growth(5, -1.0), highway_growth(5, -1.0, gate_variance=1.0)
    assert looking.gradient > looking.signal
    assert still.gradient == still.signal


@given(st.integers(1, 200), GAINS)
def test_dense_concatenation_is_a_power_of_depth(num_layers, gain):
    expected = math.lgamma(num_layers + 1.0 + gain) - math.lgamma(num_layers + 1.0) - math.lgamma(1.0 + gain)
    assert math.log(dense_growth(num_layers, gain=gain).signal) == pytest.approx(expected, abs=1e-9)


@given(st.integers(1, 100), GAINS, st.floats(0.1, 3.0))
def test_with_a_norm_before_the_branch_signal_and_gradient_grow_alike(num_blocks, gain, scale):
    found = pre_norm_growth(num_blocks, gain=gain, chi=gain, scale=scale)
    assert found.signal == pytest.approx(1.0 + scale**2 * gain * num_blocks)
    assert found.gradient == pytest.approx(found.signal)


def test_batch_norm_before_the_branch_grows_with_a_power_of_its_explosion():
    one, other = (pre_norm_growth(n, varying_share=varying_share(RELU)).gradient for n in (20_000, 40_000))
    assert math.log2(other / one) == pytest.approx(math.pi / (math.pi - 1.0), abs=1e-3)
    assert math.log2(other / one) == pytest.approx(chi_with_batch_norm(RELU), abs=1e-3)


def test_the_share_that_varies():
    assert varying_share(LINEAR) == varying_share(TANH) == 1.0
    assert varying_share(RELU) == pytest.approx(1.0 - 1.0 / math.pi)


def test_a_norm_behind_the_sum_keeps_the_signal_and_passes_on_what_chi_exceeds_the_gain_by():
    assert post_norm_growth(10) == Growth(1.0, 1.0)
    assert post_norm_growth(10, gain=0.5, chi=1.0).gradient == pytest.approx((2.0 / 1.5) ** 10)


def test_the_last_branch_falls_with_the_root_of_depth_before_and_not_behind():
    assert pre_norm_last_gradient(400) / pre_norm_last_gradient(100) == pytest.approx(0.5, rel=0.01)
    assert post_norm_last_gradient(gain=3.0) == 0.5
