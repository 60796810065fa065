from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from headwater.capture import Problem, observe
from headwater.recording import RecordingBuilder, SignalKind, TensorStats
from headwater.report.figures import GainProfile, gain_profile_data, plot_gain_profile


@pytest.fixture
def ax():
    return Figure().subplots()


def _recording(*norms):
    """A chain of layers with one weight each, whose activation gradients have these norms; the last is the output's."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    top = builder.add_call(root)
    for index, norm in enumerate(norms):
        module = builder.add_module(str(index), "Linear", parent=root)
        builder.add_parameter(module, f"{index}.weight")
        depth = builder.add_call(module, parent=top)
        gradient = TensorStats.from_values([norm, 0.0])
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, gradient, depth=depth)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, TensorStats.from_values([norms[-1], 0.0]), depth=top)
    return builder.build()


def test_the_data_are_decades_from_the_output_to_each_layer_in_execution_order():
    assert gain_profile_data(_recording(0.02, 0.2, 2.0)) == GainProfile(("0", "1", "2"), pytest.approx((-2, -1, 0)))


def test_a_layer_that_no_gradient_reaches_is_minus_infinity():
    assert gain_profile_data(_recording(0.0, 1.0)).gain_decades == (-math.inf, 0.0)


def test_modules_without_weights_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    recording = observe(Problem(model, torch.ones(4, 2)))
    assert gain_profile_data(recording).modules == ("0", "2")


def test_a_line_shows_each_layer_at_its_gain(ax):
    line = plot_gain_profile(GainProfile(("a", "b", "c"), (-2.0, -1.0, 0.0)), ax, label="plain")
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == [-2, -1, 0]
    assert line.get_label() == "plain"
    assert ax.get_xlabel()
    assert "decades" in ax.get_ylabel()


def test_lines_on_the_same_axes_differ_in_colour_marker_and_dashes(ax):
    lines = [plot_gain_profile(GainProfile(("a", "b"), (gain, 0.0)), ax) for gain in (-1.0, -2.0, -3.0, -4.0)]
    for read in ("get_color", "get_marker", "get_linestyle"):
        assert len({getattr(line, read)() for line in lines}) == len(lines)


def test_unreached_layers_are_crosses_at_the_bottom_and_not_part_of_the_line(ax):
    line = plot_gain_profile(GainProfile(("a", "b", "c"), (-math.inf, math.nan, 0.0)), ax)
    assert [math.isnan(gain) for gain in line.get_ydata()] == [True, True, False]
    (crosses,) = ax.collections
    assert crosses.get_offsets().tolist() == [[0, 0.02]]


def test_an_empty_profile_draws_an_empty_line(ax):
    assert plot_gain_profile(GainProfile((), ()), ax).get_xdata().tolist() == []


def test_figures_are_imported_without_torch_and_without_matplotlib():
    script = "import sys, headwater.report.figures; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
