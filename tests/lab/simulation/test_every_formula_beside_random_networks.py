"""Theory and simulation agree within each formula's stated tolerance, and the test would see it if they did not."""

from __future__ import annotations

import math

import pytest

from headwater.lab import simulation
from headwater.lab.simulation.agreement import agreement
from headwater.theory.activations import LINEAR, RELU, TANH


def assert_agrees(found):
    assert found.furthest <= 1.0, found


def test_the_critical_line_of_tanh():
    assert_agrees(simulation.critical_line_of_tanh())


def test_chi_of_tanh_below_and_above_the_critical_line():
    found = simulation.chi_of_tanh()
    assert found.places == (1.0, 2.0, 3.0, 4.0)
    assert found.predicted[0] < 1.0 < found.predicted[1] < found.predicted[3]
    assert_agrees(found)


def test_the_second_moment_at_finite_width_is_a_product_of_one_plus_five_over_n():
    found = simulation.second_moment_of_relu()
    assert found.predicted == pytest.approx([(1.0 + 5.0 / width) ** 3 for width in found.places])
    assert_agrees(found)


@pytest.mark.parametrize("is_rectified", [True, False])
def test_the_logarithm_of_the_gain_scatters(is_rectified):
    assert_agrees(simulation.log_variance_of_gain((2, 5), is_rectified=is_rectified, draws=800))


def test_scaled_shortcuts_keep_the_scatter_of_the_gain():
    assert_agrees(simulation.log_variance_with_shortcuts())


@pytest.mark.parametrize(
    ("activation", "is_orthogonal", "per_layer"),
    [(LINEAR, False, 1.0), (RELU, False, 2.0), (RELU, True, 1.0), (LINEAR, True, 0.0)],
)
def test_the_variance_of_squared_singular_values_is_l_2l_l_and_0(activation, is_orthogonal, per_layer):
    found = simulation.relative_variance(activation, (1, 4, 8), is_orthogonal=is_orthogonal)
    assert found.predicted == pytest.approx([per_layer * depth for depth in found.places], abs=1e-9)
    assert_agrees(found)


@pytest.mark.parametrize(
    ("activation", "is_orthogonal", "depths"), [(LINEAR, False, (1, 4)), (RELU, False, (1, 4)), (RELU, True, (3, 8))]
)
def test_the_edge_of_the_spectrum(activation, is_orthogonal, depths):
    assert_agrees(simulation.largest_singular_value(activation, depths, is_orthogonal=is_orthogonal))


@pytest.mark.parametrize("quantity", ["signal", "gradient"])
@pytest.mark.parametrize("kind", list(simulation.KINDS))
def test_growth_with_each_kind_of_shortcut(kind, quantity):
    assert_agrees(simulation.growth(kind, quantity=quantity))


@pytest.mark.parametrize(
    ("kind", "expected"), [("identity", 2.0**8), ("scaled", 1.125**8), ("pre_batch_norm", 9.0), ("rezero", 1.0)]
)
def test_signals_grow_exponentially_by_e_linearly_and_not_at_all(kind, expected):
    assert simulation.growth(kind, (8,), quantity="signal").predicted == pytest.approx([expected])


@pytest.mark.parametrize("position", ["pre", "post"])
def test_the_last_branch_of_pre_norm_learns_less_the_deeper_the_network(position):
    assert_agrees(simulation.last_branch_gradient(position))


@pytest.mark.parametrize("activation", [LINEAR, RELU, TANH], ids=lambda activation: activation.name)
def test_batch_norm_explodes(activation):
    found = simulation.batch_norm_explosion(activation)
    if activation is RELU:
        assert found.predicted[-1] == pytest.approx(math.sqrt(math.pi / (math.pi - 1.0)), abs=5e-3)
    if activation is LINEAR:
        assert found.predicted == pytest.approx([math.sqrt((b - 2.0) / (b - 3.0)) for b in found.places])
    assert_agrees(found)


@pytest.mark.parametrize("shortcut", ["none", "identity", "scaled"])
def test_gradients_shatter(shortcut):
    assert_agrees(simulation.shattering(shortcut))


def test_narrow_networks_are_born_dead():
    assert_agrees(simulation.born_dead())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_cells(cell):
    assert_agrees(simulation.gain_over_time(cell))


def test_a_wrong_prediction_is_seen():
    right = simulation.born_dead((5,))
    wrong = right._replace(predicted=(right.predicted[0] * 1.2,))
    assert right.furthest <= 1.0 < wrong.furthest


def test_a_simulation_that_gives_no_number_does_not_agree():
    found = agreement("nan", ("x", "y"), [1.0], [[math.nan]], [1.0], tolerance=1.0)
    assert found.furthest == math.inf
