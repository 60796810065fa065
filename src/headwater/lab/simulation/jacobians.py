"""Singular values of the Jacobians of wide networks, measured by `headwater.lab.jacobian`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from headwater.lab.jacobian import JacobianSpectrum, jacobian_spectrum
from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import gaussian_weight, normal, orthogonal_weight
from headwater.theory.activations import LINEAR, RELU, TANH, Activation
from headwater.theory.jacobian import GAUSSIAN, ORTHOGONAL, squared_singular_value_variance
from headwater.theory.mean_field import Initialisation
from headwater.theory.spectrum import spectral_edge

_MODULES: dict[str, type[nn.Module]] = {"Identity": nn.Identity, "ReLU": nn.ReLU, "Tanh": nn.Tanh}


def layers(
    activation: Activation,
    num_layers: int,
    width: int,
    *,
    weight_variance: float = 1.0,
    is_orthogonal: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """Square layers in float64 without biases, Gaussian or orthogonal, each followed by an activation (linear, ReLU or tanh).

    >>> len(layers(RELU, 3, 4))
    6
    """
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential()
    for _ in range(num_layers):
        linear = nn.Linear(width, width, bias=False, dtype=torch.float64)
        weight = orthogonal_weight(generator, width) if is_orthogonal else gaussian_weight(generator, width, width)
        linear.weight = nn.Parameter(weight * weight_variance**0.5)
        network.extend([linear, _MODULES[activation.name]()])
    return network


def relative_variance(
    activation: Activation = RELU,
    depths: Sequence[int] = (1, 2, 4, 8),
    *,
    is_orthogonal: bool = False,
    width: int = 256,
    seeds: int = 3,
) -> Agreement:
    """m_2 / m_1² - 1 of the squared singular values: L, 2 L, L or 0 for Gaussian linear, Gaussian ReLU, orthogonal ReLU and orthogonal linear layers.

    Within 15 %, and 1e-9 for 0.

    >>> relative_variance(LINEAR, [2], is_orthogonal=True, width=8, seeds=1).predicted
    (0.0,)
    """
    weights = ORTHOGONAL if is_orthogonal else GAUSSIAN
    found = agreement(
        f"{'orthogonal' if is_orthogonal else 'Gaussian'} {activation.name} layers",
        ("layers", "m₂ / m₁² − 1"),
        depths,
        [
            [_relative_variance(_spectrum(activation, depth, width, is_orthogonal, seed)) for seed in range(seeds)]
            for depth in depths
        ],
        [round(squared_singular_value_variance(activation, depth, weights=weights), 12) for depth in depths],
        tolerance=0.15,
    )
    return found._replace(allowed=tuple(max(each, 1e-9) for each in found.allowed))


def largest_singular_value(
    activation: Activation = LINEAR,
    depths: Sequence[int] = (1, 2, 4, 8),
    *,
    is_orthogonal: bool = False,
    width: int = 256,
    seeds: int = 3,
) -> Agreement:
    """The largest squared singular value of linear or ReLU layers beside the edge of the predicted spectrum.

    Within 15 % and two standard errors, at width 256: finite layers fall short of the edge.

    >>> largest_singular_value(depths=[1], width=16).predicted
    (4.0,)
    """
    weights, initialisation = ORTHOGONAL if is_orthogonal else GAUSSIAN, Initialisation(_critical(activation))
    return agreement(
        f"{'orthogonal' if is_orthogonal else 'Gaussian'} {activation.name} layers",
        ("layers", "largest squared singular value"),
        depths,
        [
            [
                float(np.mean(_spectrum(activation, depth, width, is_orthogonal, seed).largest ** 2))
                for seed in range(seeds)
            ]
            for depth in depths
        ],
        [round(spectral_edge(activation, initialisation, depth, weights=weights), 9) for depth in depths],
        tolerance=0.15,
        errors_allowed=2.0,
    )


def _critical(activation: Activation) -> float:
    return {RELU.name: 2.0, LINEAR.name: 1.0, TANH.name: 1.0}[activation.name]


def _spectrum(activation: Activation, depth: int, width: int, is_orthogonal: bool, seed: int) -> JacobianSpectrum:
    network = layers(
        activation, depth, width, weight_variance=_critical(activation), is_orthogonal=is_orthogonal, seed=seed
    )
    return jacobian_spectrum(network, normal(torch.Generator().manual_seed(seed), 1, width), method="dense")


def _relative_variance(spectrum: JacobianSpectrum) -> float:
    second, fourth = (spectrum.mean_of(lambda s, power=power: s**power).value for power in (2, 4))
    return float(np.mean(fourth / second**2 - 1.0))
