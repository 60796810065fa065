"""How many narrow ReLU networks are dead for an input before training starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import normal
from headwater.theory.born_dead import born_dead_probability


def born_dead(
    depths: Sequence[int] = (1, 5, 10, 20), *, width: int = 3, networks: int = 4000, seed: int = 0
) -> Agreement:
    """Share of networks in which some layer is off as a whole for one input; within four standard errors.

    >>> born_dead([1], width=1, networks=100).predicted
    (0.5,)
    """
    generator = torch.Generator().manual_seed(seed)
    found = [_dead(generator, depth, width, networks) for depth in depths]
    predicted = [born_dead_probability([width] * depth) for depth in depths]
    return agreement(
        f"ReLU networks of width {width}",
        ("layers", "share of networks born dead"),
        depths,
        found,
        predicted,
        errors_allowed=4.0,
    )


def _dead(generator: torch.Generator, depth: int, width: int, networks: int) -> list[float]:
    """1 for each network whose output has no gradient at its input, 0 for each other."""
    start = normal(generator, networks, width, 1).requires_grad_()
    hidden = start
    for _ in range(depth):
        weight, bias = normal(generator, networks, width, width), normal(generator, networks, width, 1)
        hidden = (weight @ hidden + 0.3 * bias).relu()
    (gradient,) = torch.autograd.grad(hidden, start, normal(generator, *hidden.shape))
    return (gradient.abs().sum((1, 2)) == 0.0).double().tolist()
