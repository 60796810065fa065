"""What the figure of singular values shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from headwater.lab.jacobian import jacobian_spectrum, plot_spectrum, spectrum_data
from headwater.lab.simulation.jacobians import layers
from headwater.theory.activations import LINEAR, RELU
from headwater.theory.mean_field import Initialisation
from headwater.theory.spectrum import fuss_catalan_density, spectral_density, spectral_edge


def axes():
    return Figure().subplots()


def shares(data):
    return data.share_per_decade * np.diff(np.log10(data.bin_edges))


@pytest.mark.parametrize("method", ["dense", "lanczos"])
def test_every_singular_value_is_somewhere(method):
    spectrum = jacobian_spectrum(layers(RELU, 3, 64, weight_variance=2.0), torch.randn(2, 64).double(), method=method)
    data = spectrum_data(spectrum)
    zeros = 0.0 if math.isnan(data.share_at_zero) else data.share_at_zero
    assert shares(data).sum() + data.share_below + zeros == pytest.approx(1.0)
    assert math.isnan(data.share_at_zero) == (method == "lanczos")


def test_bars_and_line_are_the_same_distribution():
    spectrum = jacobian_spectrum(layers(LINEAR, 2, 300), torch.randn(1, 300).double())
    prediction = fuss_catalan_density(2, num_points=2000)
    data = spectrum_data(spectrum, prediction, num_bins=6, decades=1.5)
    places, density = np.log10(data.predicted_values), data.predicted_per_decade
    for low, high, share in zip(data.bin_edges[:-1], data.bin_edges[1:], shares(data), strict=True):
        inside = (data.predicted_values >= low) & (data.predicted_values <= high)
        predicted = np.trapezoid(density[inside], places[inside])
        assert share == pytest.approx(predicted, abs=0.03)
    assert data.predicted_edge == pytest.approx(math.sqrt(6.75))


def test_the_drawing_says_what_it_shows():
    spectrum = jacobian_spectrum(layers(RELU, 4, 32, weight_variance=2.0), torch.randn(3, 32).double())
    ax = axes()
    plot_spectrum(spectrum_data(spectrum, spectral_density(RELU, Initialisation(2.0), 4)), ax)
    legend = ax.get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[0] == "measured: 32 values × 3 samples"
    assert labels[1].startswith("largest measured")
    assert labels[2:] == [
        "predicted density",
        f"predicted edge {math.sqrt(spectral_edge(RELU, Initialisation(2.0), 4)):.3g}",
    ]
    assert "predicted at 0: 50%" in legend.get_title().get_text()
    assert (ax.get_xscale(), ax.get_ylabel()) == ("log", "share per decade (%)")


def test_a_figure_without_prediction_and_with_a_single_sample():
    data = spectrum_data(jacobian_spectrum(nn.Linear(5, 5), torch.ones(1, 5)))
    assert np.isnan(data.error).all()
    ax = axes()
    plot_spectrum(data, ax)
    assert next(text.get_text() for text in ax.get_legend().get_texts()) == "measured: 5 values × 1 sample"


def test_a_prediction_without_a_density_shows_its_edge():
    prediction = spectral_density(LINEAR, Initialisation(1.0), 3, weights=0.0)
    spectrum = jacobian_spectrum(layers(LINEAR, 3, 16, is_orthogonal=True), torch.ones(1, 16).double())
    data = spectrum_data(spectrum, prediction)
    assert (len(data.predicted_values), round(data.predicted_edge, 9), round(data.largest, 9)) == (0, 1.0, 1.0)
    plot_spectrum(data, axes())


def test_nothing_but_zeros_cannot_be_drawn():
    dead = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    with pytest.raises(ValueError, match="every one of this network's is"):
        spectrum_data(jacobian_spectrum(dead, torch.zeros(1, 3)))
