"""Singular values of deep networks' Jacobians: Gaussian and orthogonal weights, with the predicted density and edge.

python examples/gallery/orthogonal_against_gaussian.py [--small] [--out DIR]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from exhibit import Claim, Exhibit, main

from headwater.lab.jacobian import SpectrumData, jacobian_spectrum, plot_spectrum, spectrum_data
from headwater.lab.simulation.jacobians import layers
from headwater.theory import GAUSSIAN, ORTHOGONAL, Initialisation, spectral_density
from headwater.theory.activations import LINEAR, RELU
from headwater.theory.jacobian import squared_singular_value_variance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headwater.theory import Activation

NUM_LAYERS = 6
CASES = {
    "Gaussian, linear": (LINEAR, False),
    "orthogonal, linear": (LINEAR, True),
    "Gaussian, ReLU": (RELU, False),
    "orthogonal, ReLU": (RELU, True),
}


class Spectrum(NamedTuple):
    """Of one kind of network: the histogram, and m_2 / m_1² - 1 of the squared singular values, measured and predicted."""

    shown: SpectrumData
    variance: float
    predicted_variance: float


def compute(small: bool) -> dict[str, Spectrum]:
    width, num_samples = (96, 4) if small else (256, 8)
    return {name: _spectrum(*case, width, num_samples) for name, case in CASES.items()}


def _spectrum(activation: Activation, is_orthogonal: bool, width: int, num_samples: int) -> Spectrum:
    weight_variance = 2.0 if activation is RELU else 1.0
    network = layers(activation, NUM_LAYERS, width, weight_variance=weight_variance, is_orthogonal=is_orthogonal)
    num_samples = 1 if activation is LINEAR else num_samples  # all have the same Jacobian
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_samples, width, generator=generator, dtype=torch.float64)
    measured = jacobian_spectrum(network, inputs, method="dense")
    weights = ORTHOGONAL if is_orthogonal else GAUSSIAN
    prediction = spectral_density(activation, Initialisation(weight_variance), NUM_LAYERS, weights=weights)
    second, fourth = (measured.mean_of(lambda s, power=power: s**power).value for power in (2, 4))
    variance = float(np.mean(fourth / second**2 - 1.0))
    predicted = squared_singular_value_variance(activation, NUM_LAYERS, weights=weights)
    return Spectrum(spectrum_data(measured, prediction, num_bins=24, decades=2.0), variance, predicted)


def claims(data: dict[str, Spectrum]) -> list[Claim]:
    gaussian, orthogonal = data["Gaussian, ReLU"].shown, data["orthogonal, ReLU"].shown
    shown = ", ".join(
        f"{each.variance:.2f} ({name}; theory {each.predicted_variance:.0f})" for name, each in data.items()
    )
    edges = ", ".join(
        f"{each.shown.largest:.3g} of {each.shown.predicted_edge:.3g} ({name})" for name, each in data.items()
    )
    return [
        Claim(
            f"{NUM_LAYERS} layers at criticality: orthogonal weights keep the largest singular value at {orthogonal.largest:.2f} with ReLU "
            f"(edge {orthogonal.predicted_edge:.2f}) and 1 when linear; Gaussian weights have {gaussian.largest:.2f} "
            f"(edge {gaussian.predicted_edge:.2f}) and {data['Gaussian, linear'].shown.largest:.2f}.",
            orthogonal.largest < gaussian.largest
            and abs(data["orthogonal, linear"].shown.largest - 1.0) < 1e-9
            and data["Gaussian, linear"].shown.largest > 1.5,
        ),
        Claim(
            f"The largest singular values lie within 20 % of the predicted edges: {edges}.",
            all(abs(each.shown.largest / each.shown.predicted_edge - 1.0) < 0.2 for each in data.values()),
        ),
        Claim(
            f"Relative variance of the squared singular values: {shown}; all within 25 %.",
            all(
                abs(each.variance - each.predicted_variance) < max(0.25 * each.predicted_variance, 1e-9)
                for each in data.values()
            ),
        ),
    ]


def draw(data: dict[str, Spectrum], figure: Figure) -> None:
    for ax, (name, spectrum) in zip(figure.subplots(2, 2).ravel(), data.items(), strict=True):
        plot_spectrum(spectrum.shown, ax)
        ax.set_title(f"{NUM_LAYERS} {name.replace(',', '')} layers", fontsize=10, loc="left")


EXHIBIT = Exhibit("orthogonal_against_gaussian", compute, claims, draw, size_inches=(10.0, 8.0))

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
