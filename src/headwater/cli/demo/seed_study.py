"""The notebook's experiment over many seeds: medians with intervals instead of one draw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from headwater.lab.paired_statistics import Median, median_interval
from headwater.networks import DeepNeuralNetwork

LAYER_SIZES = (3, 3, 3, 3, 3, 1)
NUM_SEEDS = 200


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
