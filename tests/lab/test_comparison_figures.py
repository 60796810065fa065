from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from torch import nn

import headwater as hw
from headwater.lab.comparison_figures import (
    curves_data,
    plot_curves,
    plot_profile,
    plot_ratio,
    profile_data,
    ratio_data,
    write_figure,
)
from headwater.report.line_styles import LINE_STYLES
from tests.lab.networks import NOTEBOOK, SAMPLE, ZERO, inputs, mlp

pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure


@pytest.fixture(scope="module")
def comparison():
    return hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=8, train=4)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_the_profile_shows_medians_inside_of_their_bands(comparison, ax):
    data = profile_data(comparison)
    for band, variant in zip(data.bands, comparison.variants, strict=True):
        assert band.middle.tolist() == np.median(variant.measured.gain_decades, axis=0).tolist()
        assert (band.low <= band.middle).all()
        assert (band.middle <= band.high).all()
    plot_profile(data, ax)
    assert ax.get_ylabel() == "gradient gain from the output (decades)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["plain", "shortcut", "theory (mean field)"]


def test_the_ratio_shows_every_pair_and_the_interval(comparison, ax):
    data = ratio_data(comparison)
    gains = comparison.variants[1].measured.gain_decades - comparison.variants[0].measured.gain_decades
    assert data.seeds[0] == pytest.approx(gains)
    layer = comparison.ratios["shortcut"].layers[0]
    assert 10.0 ** data.bands[0].low[0] == pytest.approx(layer.gain.low)
    plot_ratio(data, ax)
    assert len(ax.collections[0].get_offsets()) == 8 * 5
    assert ax.get_ylabel() == "gain / gain of the baseline (ratio)"
    assert "'plain'" in ax.get_title(loc="left")


def test_learning_curves_show_the_measure_that_tells_most(comparison, ax):
    data = curves_data(comparison)
    assert data.measure == "loss"
    plot_curves(data, ax)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("optimiser steps", "loss", "log")


def test_variants_of_different_depth_share_an_axis_of_relative_depth(ax):
    found = hw.compare({"deep": partial(mlp, 6), "shallow": partial(mlp, 2)}, inputs(), seeds=2)
    data = profile_data(found)
    assert data.is_relative
    assert [(band.position[0], band.position[-1]) for band in data.bands] == [(0.0, 1.0), (0.0, 1.0)]
    plot_profile(data, ax)
    plot_ratio(ratio_data(found), Figure().subplots())
    assert ax.get_xlabel().startswith("relative depth")


def test_layers_without_any_gradient_are_marked_and_break_nothing(tmp_path):
    def dead():
        return nn.Sequential(nn.Linear(6, 6), nn.Threshold(1e6, 0.0), nn.Linear(6, 2))

    found = hw.compare({"alive": partial(mlp, 1), "dead": dead}, inputs(), seeds=6)
    ax = Figure().subplots()
    plot_profile(profile_data(found), ax)
    crosses = [
        collection for collection in ax.collections if collection.get_offset_transform() == ax.get_xaxis_transform()
    ]
    assert len(crosses) == 1
    write_figure(found, tmp_path / "dead.png")
    assert (tmp_path / "dead.png").stat().st_size > 0


def test_lines_are_told_apart_without_colour_too():
    for attribute in ("color", "marker", "linestyle"):
        assert len({getattr(style, attribute) for style in LINE_STYLES}) == len(LINE_STYLES)


def test_no_line_is_too_light_for_white_paper():
    for style in LINE_STYLES:
        red, green, blue = to_rgb(style.color)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_one_picture_holds_all_that_was_measured(comparison, tmp_path):
    for ending in ("png", "svg"):
        write_figure(comparison, tmp_path / f"all.{ending}")
        assert (tmp_path / f"all.{ending}").stat().st_size > 1000
