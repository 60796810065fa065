"""Chi of wide tanh networks at their fixed point, and on the critical line."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import gaussian_weight, normal, squared_gradient_norms
from headwater.theory.activations import TANH
from headwater.theory.mean_field import Initialisation, chi, critical_weight_variance, fixed_point

_TOLERANCE = 0.03


def chi_of_tanh(
    weight_variances: Sequence[float] = (1.0, 2.0, 3.0, 4.0),
    *,
    bias_variance: float = 0.05,
    width: int = 400,
    num_layers: int = 10,
    seeds: int = 4,
) -> Agreement:
    """Chi against sigma_w², vanishing below the critical line and exploding above; within 3 %.

    >>> chi_of_tanh([1.0], width=50, seeds=2).predicted[0] < 1.0
    True
    """
    found = [Initialisation(variance, bias_variance) for variance in weight_variances]
    return agreement(
        f"tanh layers, σ_b² = {bias_variance:g}",
        ("σ_w²", "χ"),
        weight_variances,
        [[_chi(each, width, num_layers, seed) for seed in range(seeds)] for each in found],
        [chi(TANH, each, fixed_point(TANH, each)) for each in found],
        tolerance=_TOLERANCE,
    )


def critical_line_of_tanh(
    bias_variances: Sequence[float] = (0.01, 0.05, 0.1, 0.3), *, width: int = 400, num_layers: int = 10, seeds: int = 4
) -> Agreement:
    """Chi along the critical line sigma_w²(sigma_b²), where it should be 1; within 3 %.

    >>> critical_line_of_tanh([0.05], width=50, seeds=2).predicted
    (1.0,)
    """
    found = [Initialisation(critical_weight_variance(TANH, variance), variance) for variance in bias_variances]
    return agreement(
        "tanh layers on the critical line",
        ("σ_b²", "χ"),
        bias_variances,
        [[_chi(each, width, num_layers, seed) for seed in range(seeds)] for each in found],
        [1.0] * len(found),
        tolerance=_TOLERANCE,
    )


def _chi(initialisation: Initialisation, width: int, num_layers: int, seed: int) -> float:
    """Geometric mean over the layers, of a network that starts at its fixed point."""
    generator = torch.Generator().manual_seed(seed)
    start = fixed_point(TANH, initialisation) ** 0.5 * normal(generator, 16, width)
    before = start.requires_grad_()
    hidden = before
    for _ in range(num_layers):
        weight = gaussian_weight(generator, width, width, initialisation.weight_variance)
        bias = initialisation.bias_variance**0.5 * normal(generator, width)
        hidden = hidden.tanh() @ weight.T + bias
    cotangent = normal(generator, 16, width)
    (arrived,) = squared_gradient_norms(hidden, [before], cotangent)
    return (arrived / float(cotangent.square().sum())) ** (1.0 / num_layers)
