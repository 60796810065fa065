"""How alike the gradients of two inputs are, behind more and more layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import gaussian_weight, normal
from headwater.theory.shattering import gradient_correlation, gradient_correlation_with_shortcuts

_COTANGENTS = 16  # per network

Shortcut = Literal["none", "identity", "scaled"]


def shattering(
    shortcut: Shortcut = "none",
    depths: Sequence[int] = (1, 2, 4, 8),
    *,
    correlation: float = 0.8,
    width: int = 400,
    seeds: int = 12,
) -> Agreement:
    """Correlation of the gradients of two inputs against depth, for He-ReLU layers or blocks; within 0.04 of 1.

    Args:
        shortcut: "none", "identity", or "scaled" (branches / sqrt(L)).
        depths: numbers of layers or blocks.
        correlation: of both inputs.
        width: of the layers.
        seeds: networks.

    >>> shattering(depths=[1], correlation=0.0, width=20, seeds=2).predicted
    (0.5,)
    """
    found = agreement(
        {"none": "plain ReLU layers", "identity": "ReLU blocks", "scaled": "ReLU blocks, branches / √L"}[shortcut],
        ("layers" if shortcut == "none" else "blocks", "correlation of two inputs' gradients"),
        depths,
        [[_correlation(shortcut, depth, correlation, width, seed) for seed in range(seeds)] for depth in depths],
        [_predicted(shortcut, depth, correlation) for depth in depths],
    )
    return found._replace(allowed=(0.04,) * len(depths))


def _predicted(shortcut: Shortcut, depth: int, correlation: float) -> float:
    if shortcut == "none":
        return gradient_correlation(correlation, depth)
    return gradient_correlation_with_shortcuts(correlation, depth, 1.0 if shortcut == "identity" else depth**-0.5)


def _correlation(shortcut: Shortcut, depth: int, correlation: float, width: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    inputs = normal(generator, 2, width)
    inputs[1] = correlation * inputs[0] + (1.0 - correlation**2) ** 0.5 * inputs[1]
    hidden = inputs.requires_grad_()
    scale = depth**-0.5 if shortcut == "scaled" else 1.0
    for _ in range(depth):
        features = (hidden @ gaussian_weight(generator, width, width, 2.0).T).relu()
        if shortcut == "none":
            hidden = features
        else:
            hidden = hidden + scale * features @ gaussian_weight(generator, width, width).T
    products = torch.stack([_products(hidden, inputs, normal(generator, width)) for _ in range(_COTANGENTS)]).sum(0)
    return float(products[0, 1] / (products[0, 0] * products[1, 1]).sqrt())


def _products(output: Tensor, inputs: Tensor, cotangent: Tensor) -> Tensor:
    """Of the gradients of both inputs, for the same cotangent."""
    (gradient,) = torch.autograd.grad(output, inputs, cotangent.expand(2, -1), retain_graph=True)
    return gradient @ gradient.T
