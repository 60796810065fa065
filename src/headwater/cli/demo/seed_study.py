"""The notebook's experiment over many seeds: medians with intervals instead of one draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from headwater.networks import DeepNeuralNetwork

LAYER_SIZES = (3, 3, 3, 3, 3, 1)
NUM_SEEDS = 200


class Median(NamedTuple):
    """A median with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class SeedStudy(NamedTuple):
    """What the seeds say; `gain` is layer 0's weight gradient with shortcuts over without, loss slopes taken out."""

    first_to_last_without: Median
    first_to_last_with: Median
    gain: Median
    num_seeds_with_gain: int
    num_seeds: int


def seed_study(num_seeds: int = NUM_SEEDS) -> SeedStudy:
    """Both variants under `torch.manual_seed(0)`, 1, ...: medians, since rare draws carry the means.

    >>> study = seed_study(20)
    >>> study.first_to_last_without.value < study.first_to_last_with.value
    True
    """
    with torch.random.fork_rng(devices=[]):
        rows = np.array([[_first_last_slope(seed, use_shortcut=s) for s in (False, True)] for seed in range(num_seeds)])
    first, last, slope = np.moveaxis(rows, -1, 0)
    first_to_last = first / last
    per_slope = first / slope
    gain = per_slope[:, 1] / per_slope[:, 0]
    return SeedStudy(
        first_to_last_without=median_interval(first_to_last[:, 0].tolist()),
        first_to_last_with=median_interval(first_to_last[:, 1].tolist()),
        gain=median_interval(gain.tolist()),
        num_seeds_with_gain=int((gain > 1).sum()),
        num_seeds=num_seeds,
    )


def _first_last_slope(seed: int, *, use_shortcut: bool) -> tuple[float, float, float]:
    """Mean absolute weight gradient of the first and the last layer, and |dL/dy|."""
    torch.manual_seed(seed)
    model = DeepNeuralNetwork(LAYER_SIZES, use_shortcut)
    output = model(torch.tensor([[1.0, 0.0, -1.0]]))
    weights = [model.get_parameter(f"layers.{layer}.0.weight") for layer in (0, len(LAYER_SIZES) - 2)]
    first, last, slope = torch.autograd.grad(output.square().mean(), [*weights, output])
    return first.abs().mean().item(), last.abs().mean().item(), slope.abs().sum().item()


def median_interval(values: Sequence[float]) -> Median:
    """The median and a 95 % confidence interval of it that no distribution is assumed for.

    The interval's ends are order statistics: the number of values below the true median is binomial(n, 1/2), here by
    its normal approximation (Conover 1999, Practical Nonparametric Statistics).

    >>> median_interval(range(1, 101))
    Median(value=50.5, low=40, high=61)
    """
    ordered = sorted(values)
    num = len(ordered)
    half_width = 0.98 * math.sqrt(num)  # 1.96 standard deviations of sqrt(n) / 2
    low = max(math.floor(num / 2 - half_width), 1)
    high = min(math.ceil(num / 2 + half_width) + 1, num)
    return Median(float(np.median(ordered)), ordered[low - 1], ordered[high - 1])
