"""The notebook's experiment, measured: five layers with and without shortcuts, and what their ratio is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from headwater.analysis import RatioFactors, ratio_factors
from headwater.capture import Problem, observe
from headwater.networks import DeepNeuralNetwork
from headwater.recording import Recording, SignalKind

LAYER_SIZES = (3, 3, 3, 3, 3, 1)
SEED = 123
VARIANTS = ("without shortcuts", "with shortcuts")


class LayerComparison(NamedTuple):
    """One layer's mean absolute weight gradient in both variants, and the factors of their ratio."""

    layer: int
    without: float
    with_shortcuts: float
    factors: RatioFactors


def sample() -> Tensor:
    """The notebook's one input, shape (1, 3).

    >>> sample()
    tensor([[ 1.,  0., -1.]])
    """
    return torch.tensor([[1.0, 0.0, -1.0]])


def build(*, use_shortcut: bool, seed: int = SEED) -> DeepNeuralNetwork:
    """The notebook's network; under one seed both variants have the same weights.

    >>> build(use_shortcut=False)(sample()).shape
    torch.Size([1, 1])
    """
    torch.manual_seed(seed)
    return DeepNeuralNetwork(LAYER_SIZES, use_shortcut)


def record_variants() -> dict[str, Recording]:
    """A recording of each variant under the notebook's seed, mean squared error against zero.

    >>> [round(recording.context.loss, 6) for recording in record_variants().values()]
    [0.003722, 0.588565]
    """
    return {
        name: observe(Problem(build(use_shortcut=bool(index)), sample(), torch.zeros(1, 1), nn.MSELoss()))
        for index, name in enumerate(VARIANTS)
    }


def compare_layers(without: Recording, with_shortcuts: Recording) -> list[LayerComparison]:
    """One row per layer, the input's side first.

    >>> row = compare_layers(*record_variants().values())[0]
    >>> int(row.factors.ratio), round(row.factors.loss_slope, 2), round(row.factors.architecture)
    (1099, 12.58, 87)
    """
    return [
        LayerComparison(
            layer,
            _mean_abs_gradient(without, layer),
            _mean_abs_gradient(with_shortcuts, layer),
            ratio_factors(with_shortcuts, without, f"layers.{layer}.0.weight"),
        )
        for layer in range(len(LAYER_SIZES) - 1)
    ]


def _mean_abs_gradient(recording: Recording, layer: int) -> float:
    signals = recording.select(SignalKind.WEIGHT_GRADIENT, module=f"layers.{layer}.0")
    return next(signal.stats.mean_abs for signal in signals if signal.item == "weight")
