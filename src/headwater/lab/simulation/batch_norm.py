"""BatchNorm's explosion: what plain layers with BatchNorm multiply the gradient by, for each size of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import gaussian_weight, normal, squared_gradient_norms
from headwater.theory.activations import LINEAR, RELU, TANH, Activation
from headwater.theory.batch_norm import batch_norm_gradient_factor

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    LINEAR.name: lambda x: x,
    RELU.name: torch.relu,
    TANH.name: torch.tanh,
}


def batch_norm_explosion(
    activation: Activation = RELU,
    batches: Sequence[int] = (8, 16, 64, 256),
    *,
    width: int = 400,
    seeds: int = 4,
    settling: int = 8,
    num_layers: int = 10,
) -> Agreement:
    """Factor per layer of the gradient's norm against the batch: down to 1.211 for ReLU, sqrt((B - 2) / (B - 3)) for linear layers; within 2 %.

    Args:
        activation: linear, ReLU or tanh.
        batches: samples.
        width: of the layers.
        seeds: networks.
        settling: layers before the measured ones, in which all pairs of samples become equally alike.
        num_layers: that are measured.

    >>> round(batch_norm_explosion(LINEAR, [6], width=20, seeds=1).predicted[0] ** 2, 6)
    1.333333
    """
    return agreement(
        f"{activation.name} layers with BatchNorm",
        ("samples of a batch", "gradient norm, factor per layer"),
        batches,
        [
            [_factor(_FUNCTIONS[activation.name], batch, width, settling, num_layers, seed) for seed in range(seeds)]
            for batch in batches
        ],
        [batch_norm_gradient_factor(activation, batch) for batch in batches],
        tolerance=0.02,
    )


def _factor(
    function: Callable[[Tensor], Tensor], batch: int, width: int, settling: int, num_layers: int, seed: int
) -> float:
    generator = torch.Generator().manual_seed(seed)
    hidden = normal(generator, batch, width).requires_grad_()
    before: list[Tensor] = []
    # As many behind the measured ones: there the gradients of the samples become as unlike as they stay.
    for _ in range(settling + num_layers + settling):
        before.append(hidden @ gaussian_weight(generator, width, width).T)
        hidden = function(functional.batch_norm(before[-1], None, None, training=True, eps=1e-12))
    measured = [before[settling], before[settling + num_layers]]
    first, last = squared_gradient_norms(hidden, measured, normal(generator, batch, width))
    return (first / last) ** (0.5 / num_layers)
