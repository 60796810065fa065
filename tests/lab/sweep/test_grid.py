from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.lab.sweep.grid import Cell, Grid, GridError
from headwater.lab.sweep.settings import Settings
from headwater.networks import NetworkSpec


def factory(depth, activation="relu"):
    """Arguments with names."""


def test_cells_are_the_product_over_the_base_and_each_line_parses_to_its_specification():
    grid = Grid({"activation": ["tanh", "gelu"], "depth": [2, 3]}, {"width": 8})
    cells = list(grid.cells())
    assert [(c.spec.activation, c.spec.depth, c.spec.width) for c in cells] == [
        ("tanh", 2, 8),
        ("tanh", 3, 8),
        ("gelu", 2, 8),
        ("gelu", 3, 8),
    ]
    assert all(NetworkSpec.parse(cell.line) == cell.spec for cell in cells)


def test_a_grid_of_a_trillion_cells_gives_its_first_ones_at_once():
    grid = Grid({"width": range(1, 10**4), "num_inputs": range(1, 10**4), "num_outputs": range(1, 10**4)})
    assert [cell.spec.num_outputs for cell in itertools.islice(grid.cells(), 3)] == [1, 2, 3]


def test_a_base_can_be_a_specification():
    base = NetworkSpec(width=8, activation="tanh")
    assert next(Grid({"depth": [2]}, base).cells()).spec == NetworkSpec(width=8, activation="tanh", depth=2)


def test_impossible_combinations_are_counted_with_the_first_reason():
    survey = Grid({"initialisation": ["he", "fixup"], "shortcut": ["none", "identity", "dense"]}).survey()
    assert (survey.num_cells, survey.num_impossible) == (4, 2)
    assert "fixup" in survey.reason


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        (
            {"activation": ["relu", "rellu"]},
            r"no network in the grid with activation = 'rellu': expected activation to be one of",
        ),
        ({"depth": [0, 3]}, r"with depth = 0: expected depth to be a whole number"),
        ({"depth": [2, 3], "initialisation": ["fixup"]}, r"^there is no network in the grid: initialisation 'fixup'"),
        (
            {"activation": ["tanh", "softplus"], "initialisation": ["critical"]},
            "with activation = 'softplus': softplus has no critical point",
        ),
    ],
)
def test_a_value_with_which_no_cell_exists_is_a_mistake_and_no_combination_to_skip(axes, sentence):
    with pytest.raises(GridError, match=sentence):
        Grid(axes).survey()


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"depth": []}, "expected values for the axis 'depth'"),
        ({"depth": [2, 4, 2]}, "has the value 2 twice"),
        ({"depth": ["2", 2]}, "has the value 2 twice"),
        ({"depth": [2**63]}, "expected numbers of 64 bits on the axis 'depth'"),
        ({"depth": [(2, 3)]}, "expected text and numbers on the axis 'depth'"),
    ],
)
def test_an_axis_without_distinct_plain_values_is_refused(axes, sentence):
    with pytest.raises(GridError, match=sentence):
        Grid(axes)


@pytest.mark.parametrize(
    ("axes", "base", "sentence"),
    [
        ({"depht": [3]}, {}, "^there is no field 'depht' of a network; there are family, depth"),
        ({"depth": [3]}, {"widht": 3}, "^there is no field 'widht' of a network"),
        (None, {}, "expected the axes of the grid to be values by name, got None"),
        ({"depth": [3]}, 3, "expected the base of the grid to be values by name, got 3"),
        ({"depth": object()}, {}, "expected text and numbers on the axis 'depth'"),
    ],
)
def test_a_grid_of_other_things_is_refused_before_any_cell_is_made(axes, base, sentence):
    with pytest.raises(GridError, match=sentence):
        Grid(axes, base)


def test_numbers_of_numpy_make_the_same_cells_as_python_s_own():
    ours = Grid({"depth": [2, 3], "weight_variance": [1, 2]}, {"width": 8})
    theirs = Grid({"depth": np.arange(2, 4), "weight_variance": np.linspace(1.0, 2.0, 2)}, {"width": np.int64(8)})
    assert [(cell.line, cell.key) for cell in ours.cells()] == [(cell.line, cell.key) for cell in theirs.cells()]
    assert Settings(seeds=np.arange(3), batch=np.int64(8)) == Settings(seeds=(0, 1, 2), batch=8)


def test_a_factory_is_asked_for_its_arguments_before_anything_runs():
    assert [c.parameters for c in Grid({"depth": [2, 3]}, factory=factory).cells()] == [{"depth": 2}, {"depth": 3}]
    with pytest.raises(GridError, match=r"factory' cannot be called with width: missing a required argument: 'depth'"):
        Grid({"width": [3]}, factory=factory)


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_different_lines_have_different_keys_and_seeds(lines):
    one, other = (Cell(line, {}) for line in lines)
    assert one.key != other.key
    assert not set(Settings(seeds=4).seeds_of(one)) & set(Settings(seeds=4).seeds_of(other))


def test_seeds_do_not_depend_on_how_many_there_are_or_on_the_rest_of_the_grid_but_on_the_seed():
    (cell,) = Grid({"depth": [4]}).cells()
    again = list(Grid({"depth": [2, 4], "activation": ["tanh", "relu"]}).cells())[-1]
    assert again.line == cell.line
    assert Settings(seeds=3).seeds_of(cell) == Settings(seeds=8).seeds_of(again)[:3]
    assert Settings(seeds=3, seed=1).seeds_of(cell) != Settings(seeds=3).seeds_of(cell)
    assert all(0 <= seed < 2**48 for seed in Settings(seeds=100).seeds_of(cell))
    assert Settings(seeds=[7, 8]).seeds_of(cell) == [7, 8]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seeds": 0}, "expected seeds to be a whole number from 1, got 0"),
        ({"seeds": ()}, "at least one, got"),
        ({"seeds": 2.5}, "expected seeds to be a whole number from 1, got 2.5"),
        ({"seeds": (1, 1)}, "expected each seed once"),
        ({"batch": 0}, "expected batch"),
        ({"train": -1}, "expected train"),
        ({"data": "imagenet"}, "expected data to be one of gaussian, digits, got 'imagenet'"),
        ({"learning_rate": float("nan")}, "expected learning_rate"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, sentence):
    with pytest.raises(GridError, match=sentence):
        Settings(**settings)
