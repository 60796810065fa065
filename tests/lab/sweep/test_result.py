from __future__ import annotations

import io
import math

import matplotlib.colors
import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import headwater as hw
from headwater.lab.data_frame import Table
from headwater.lab.sweep import SweepError
from headwater.lab.sweep.data import samples_for
from headwater.lab.sweep.heat_map import HeatMap, heat_map_data, plot_heat_map
from headwater.lab.sweep.progress import progress_bar
from headwater.lab.sweep.trainable_depth import REACH_DECADES, trainable_depth_table
from headwater.networks import NetworkSpec
from headwater.networks.build import build

BASE = {"width": 48, "activation": "tanh", "bias_variance": 0.05}
GRID = {"weight_variance": [1.0, 1.76, 3.0], "depth": [4, 8, 16, 32]}


@pytest.fixture(scope="module")
def result():
    return hw.sweep(GRID, base=BASE, seeds=12, executor="serial", progress=False)


def test_the_table_has_parameters_medians_intervals_theory_and_codes_in_the_order_of_the_axes(result):
    frame = result.to_polars()
    assert frame["weight_variance"].to_list() == sorted(frame["weight_variance"].to_list())
    assert frame["depth"].to_list() == [4, 8, 16, 32] * 3
    assert (frame["gain_decades_low"] <= frame["gain_decades"]).all()
    assert (frame["gain_decades"] <= frame["gain_decades_high"]).all()
    assert frame["theory_rate_decades_per_layer"].is_null().sum() == 0
    assert "seconds" not in frame.columns
    assert len(pl.DataFrame(result)) == 12


def test_codes_are_those_of_a_diagnosis_of_the_first_network():
    result = hw.sweep({"activation": ["sigmoid", "relu"], "depth": [20]}, seeds=2, executor="serial", progress=False)
    for row, seeds in zip(result.table().rows(), result.to_arrow(["seeds"])["seeds"].to_pylist(), strict=True):
        spec = NetworkSpec.parse(row["specification"])
        inputs = samples_for(spec, "gaussian").inputs[:32]
        found = hw.diagnose(build(spec, seeds[0]), inputs, lines=False, samples=0).findings
        assert row["findings"].split() == sorted({f.code for f in found if f.severity >= hw.Severity.WARNING})
        assert "HW101" in row["findings"]


def test_one_row_per_cell_and_seed_agrees_with_the_cells_medians(result):
    seeds = result.seeds().to_polars()
    assert len(seeds) == 12 * 12
    assert seeds["seed"].n_unique() == 144
    medians = seeds.group_by("specification").agg(pl.col("gain_decades").median()).sort("specification")
    cells = result.to_polars().select("specification", "gain_decades").sort("specification")
    np.testing.assert_allclose(medians["gain_decades"], cells["gain_decades"])


def test_measured_depth_scales_are_theorys_where_the_signal_has_settled(result):
    rows = {row["weight_variance"]: row for row in result.depth_scales().rows()}
    for weight_variance in (1.0, 3.0):
        row = rows[weight_variance]
        assert row["depth_scale_layers"] == pytest.approx(row["theory_depth_scale_layers"], rel=0.15)
        assert row["rate_decades_per_layer"] == pytest.approx(row["theory_rate_decades_per_layer"], abs=0.02)
    assert rows[1.76]["depth_scale_layers"] > 5 * rows[1.0]["depth_scale_layers"]


def test_the_greatest_trainable_depth_is_largest_on_the_critical_line(result):
    rows = {row["weight_variance"]: row for row in result.trainable_depth().rows()}
    assert rows[1.76]["trainable_depth"] == 32
    assert rows[1.76]["is_at_least"]
    for weight_variance in (1.0, 3.0):
        depth, six = (rows[weight_variance][name] for name in ("trainable_depth", "six_measured_depth_scales"))
        assert not rows[weight_variance]["is_at_least"]
        assert depth / 2.0 <= six <= depth * 4.0  # depths of the grid are doubled from one to the next
        assert rows[weight_variance]["judged_by"] == "gradient"


def test_a_network_has_learned_when_it_is_halfway_from_chance_to_perfect_and_all_shallower_ones_have():
    rows = {"depth": [2, 4, 8, 16], "status": ["done"] * 4, "accuracy": [0.9, 0.6, 0.5, 0.9], "num_outputs": [4] * 4}
    table = Table({**rows, "gain_decades": [0.0] * 4, "rate_decades_per_layer": [0.0] * 4})
    (row,) = trainable_depth_table(table, ["depth"]).rows()
    assert (row["trainable_depth"], row["judged_by"], row["is_at_least"]) == (2.0, "training", False)
    assert trainable_depth_table(table, ["depth"], accuracy=0.55).rows()[0]["trainable_depth"] == 4.0
    assert trainable_depth_table(table, ["depth"], accuracy=0.95).rows()[0]["trainable_depth"] == 0.0
    assert pytest.approx(math.log10(math.exp(3.0))) == REACH_DECADES


def test_trained_networks_learn_at_criticality_and_not_where_the_gradient_vanishes():
    grid = {"weight_variance": [0.4, 1.76], "depth": [24]}
    base = {**BASE, "num_inputs": 64, "num_outputs": 10}
    trained = hw.sweep(
        grid,
        base=base,
        seeds=2,
        train=80,
        train_seeds=1,
        learning_rate=0.05,
        data="digits",
        executor="serial",
        progress=False,
    )
    low, high = trained.table().rows()
    assert low["accuracy"] < 0.2 < 0.5 < high["accuracy"]
    assert np.isnan(trained.seeds()["accuracy"]).sum() == 2


def test_digits_that_do_not_fit_are_the_cells_own_failure():
    failed = hw.sweep({"depth": [3]}, data="digits", executor="serial", progress=False).failures()
    assert "expected num_inputs = 64 and num_outputs = 10" in failed["mlp depth=3 width=64"]


def factory(depth, scale=1.0):
    layers = [layer for _ in range(depth) for layer in (nn.Linear(6, 6, bias=False), nn.Tanh())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=scale / 6**0.5)
    return nn.Sequential(*layers, nn.Linear(6, 2))


def test_a_factorys_networks_are_measured_layer_by_layer_under_their_seeds():
    result = hw.sweep(
        {"depth": [2, 12], "scale": [0.3, 1.0]},
        factory=factory,
        inputs=torch.ones(4, 6),
        seeds=8,
        executor="serial",
        progress=False,
    )
    assert result.failures() == {}
    rows = result.table().rows()
    assert [row["depth"] for row in rows] == [2, 2, 12, 12]
    # Small weights: tanh is the identity, and ln |J u|² has the mean ln scale² - 1/6 per layer, and the variance 2/6, at width 6.
    expected, error = (2 * math.log(0.3) - 1 / 6) / 2, 1.25 * math.sqrt(2 / 6 / 11 / 8) / 2
    assert rows[2]["rate_decades_per_layer"] * math.log(10) == pytest.approx(expected, abs=3.5 * error)
    assert rows[2]["theory_rate_decades_per_layer"] != rows[2]["theory_rate_decades_per_layer"]
    assert "HW101" in rows[2]["findings"]
    again = hw.sweep(
        {"depth": [12]},
        base={"scale": 0.3},
        factory=factory,
        inputs=torch.ones(4, 6),
        seeds=8,
        executor="serial",
        progress=False,
    )
    assert again.table()["gain_decades"][0] == rows[2]["gain_decades"]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda depth: "no module", "expected the factory to make a module or a headwater.Problem, got str"),
        (lambda depth: nn.Linear(2, 2), "pass inputs= for them"),
        (lambda depth: hw.Problem(nn.Linear(2, 2), torch.ones(1, 2)), "expected at least two layers"),
    ],
)
def test_a_factory_that_makes_something_else_is_a_failed_cell_with_a_sentence(made, sentence):
    result = hw.sweep({"depth": [1]}, factory=made, executor="serial", progress=False)
    assert sentence in next(iter(result.failures().values()))


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(SweepError, match="expected the folder of a sweep, got"):
        hw.read_sweep(tmp_path)


def test_the_heat_map_has_each_cell_at_its_place_and_six_depth_scales_over_it(result):
    data = heat_map_data(result)
    assert data.value_name == "gain_decades"
    assert data.x.tolist() == [1.0, 1.76, 3.0]
    assert data.y.tolist() == [4.0, 8.0, 16.0, 32.0]
    for row in result.table().rows():
        place = data.y.tolist().index(row["depth"]), data.x.tolist().index(row["weight_variance"])
        assert data.values[place] == row["gain_decades"]
    assert np.isfinite(data.values).all()
    peak = data.curve_x[np.nanargmax(data.curve_y)]
    assert peak == pytest.approx(1.761, abs=0.01)  # the critical line of tanh at sigma_b² = .05


def test_the_figure_is_labelled_with_units_bright_where_networks_train_and_keeps_to_the_cells(result):
    ax = Figure().subplots()
    mesh = plot_heat_map(heat_map_data(result), ax)
    assert ax.get_ylabel() == "depth (layers)"
    assert "sigma_w" in ax.get_xlabel()
    assert "decades" in mesh.colorbar.ax.get_ylabel()
    assert ax.get_ylim() == (2.0, 40.0)
    colors = mesh.to_rgba(mesh.get_array().reshape(4, 3))
    grey = matplotlib.colors.rgb_to_hsv(colors[..., :3])[..., 2]
    assert grey[3, 1] > grey[3, 0]  # critical brighter than vanishing, in grey too


def test_a_heat_map_needs_one_cell_for_each_place():
    several = hw.sweep(
        {"activation": ["tanh", "relu"], "depth": [2, 3], "width": [4, 8]},
        seeds=6,
        executor="serial",
        findings=False,
        progress=False,
    )
    with pytest.raises(SweepError, match="shows one value of 'activation', and the sweep has relu, tanh: choose one"):
        heat_map_data(several, x="width")
    assert heat_map_data(several, x="width", where={"activation": "tanh"}).values.shape == (2, 2)
    with pytest.raises(SweepError, match="the sweep has no parameter 'colour'; it has activation, depth, width"):
        heat_map_data(several, x="colour")
    with pytest.raises(SweepError, match="no cell of the sweep is done that has numbers"):
        heat_map_data(several, where={"activation": "tanh"})


def test_cells_that_were_not_measured_are_grey_and_one_column_is_drawn():
    data = HeatMap(
        np.array([1.0]),
        np.array([2.0, 4.0]),
        "width",
        "depth",
        np.array([[0.5], [math.nan]]),
        "accuracy",
        *[np.zeros(0)] * 2,
        "",
    )
    mesh = plot_heat_map(data, Figure().subplots())
    assert mesh.get_array().mask.ravel().tolist() == [False, True]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_with_rate_and_time_left_is_drawn_on_a_terminal_only():
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        with progress_bar(3, 1, stream) as on_row:
            on_row({"status": "done"})
            on_row({"status": "failed"})
    assert pipe.getvalue() == ""
    assert "3/3" in terminal.getvalue()
    assert "1 failed" in terminal.getvalue()
    assert "left" in terminal.getvalue()
