"""How gains of narrow networks scatter: second moments and logarithms of ||J u||² over many draws of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import normal
from headwater.theory.finite_width import kappa_with_shortcut, log_gain, second_moment_ratio

Array = NDArray[np.float64]

_KAPPA_LINEAR, _KAPPA_RELU = 2.0, 5.0


def second_moment_of_relu(
    widths: Sequence[int] = (10, 20, 50), *, num_layers: int = 3, draws: int = 4000, batches: int = 10, seed: int = 0
) -> Agreement:
    """E r² / (E r)² of r = ||J u||² against width, for He-ReLU layers: (1 + 5 / n)^L, exact; within four standard errors.

    >>> round(second_moment_of_relu([10], draws=200).predicted[0], 6)
    3.375
    """
    generator = torch.Generator().manual_seed(seed)
    gains = [_gains(generator, width, num_layers, draws, is_rectified=True) for width in widths]
    return agreement(
        f"{num_layers} ReLU layers",
        ("width", "E r² / (E r)²"),
        widths,
        # E r = 1 is known exactly; the mean of a batch of draws is one observation.
        [[float(part.mean()) for part in np.array_split(each**2, batches)] for each in gains],
        [second_moment_ratio(_KAPPA_RELU, [width] * num_layers) for width in widths],
        errors_allowed=4.0,
    )


def log_variance_of_gain(
    depths: Sequence[int] = (2, 5, 10), *, is_rectified: bool = True, width: int = 100, draws: int = 1000, seed: int = 0
) -> Agreement:
    """Variance of ln ||J u||² against depth: kappa L / n, 5 for ReLU and 2 for linear layers; within 15 %.

    >>> log_variance_of_gain([4], width=10, draws=100).predicted
    (2.0,)
    """
    generator = torch.Generator().manual_seed(seed)
    per_layer = _KAPPA_RELU if is_rectified else _KAPPA_LINEAR
    return agreement(
        f"{'ReLU' if is_rectified else 'linear'} layers of width {width}",
        ("layers", "variance of ln ‖J u‖²"),
        depths,
        [
            _variances(np.log(_gains(generator, width, depth, draws, is_rectified=is_rectified)), parts=10)
            for depth in depths
        ],
        [log_gain(per_layer, [width] * depth).variance for depth in depths],
        tolerance=0.15,
    )


def log_variance_with_shortcuts(
    depths: Sequence[int] = (2, 5, 10), *, width: int = 40, draws: int = 1000, seed: int = 0
) -> Agreement:
    """Variance of ln ||J u||² of blocks x + branch(x) / sqrt(L), which stays about 4 / n at any depth; within 15 %.

    The branch is a He-initialised ReLU layer and a linear one: its kappa is 5 + 2.

    >>> log_variance_with_shortcuts([4], width=10, draws=100).places
    (4.0,)
    """
    generator = torch.Generator().manual_seed(seed)
    per_block = [kappa_with_shortcut(_KAPPA_RELU + _KAPPA_LINEAR, scale=depth**-0.5) for depth in depths]
    return agreement(
        f"blocks with scaled shortcuts, width {width}",
        ("blocks", "variance of ln ‖J u‖²"),
        depths,
        [_variances(np.log(_gains_with_shortcuts(generator, width, depth, draws)), parts=10) for depth in depths],
        [log_gain(each, [width] * depth).variance for each, depth in zip(per_block, depths, strict=True)],
        tolerance=0.15,
    )


def _variances(values: Array, *, parts: int) -> list[float]:
    return [float(part.var(ddof=1)) for part in np.array_split(values, parts)]


def _gains(generator: torch.Generator, width: int, num_layers: int, draws: int, *, is_rectified: bool) -> Array:
    """||J u||² / ||u||² of networks with weights of their own, for random inputs and directions."""
    hidden, tangent = normal(generator, draws, width, 1), normal(generator, draws, width, 1)
    start = tangent.square().sum((1, 2))
    for _ in range(num_layers):
        weight = normal(generator, draws, width, width) * ((2.0 if is_rectified else 1.0) / width) ** 0.5
        before, tangent = weight @ hidden, weight @ tangent
        hidden = before.relu() if is_rectified else before
        tangent = tangent * (before > 0.0) if is_rectified else tangent
    return (tangent.square().sum((1, 2)) / start).numpy()


def _gains_with_shortcuts(generator: torch.Generator, width: int, num_blocks: int, draws: int) -> Array:
    hidden, tangent = normal(generator, draws, width, 1), normal(generator, draws, width, 1)
    start = tangent.square().sum((1, 2))
    for _ in range(num_blocks):
        inner = normal(generator, draws, width, width) * (2.0 / width) ** 0.5
        outer = normal(generator, draws, width, width) * (1.0 / (width * num_blocks)) ** 0.5
        before = inner @ hidden
        tangent = tangent + outer @ ((inner @ tangent) * (before > 0.0))
        hidden = hidden + outer @ before.relu()
    return (tangent.square().sum((1, 2)) / start).numpy()
