"""The notebook's two networks over many seeds: what one seed said, and what all of them say.

python examples/gallery/notebook_over_seeds.py [--small] [--out DIR]
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import torch
from exhibit import Claim, Exhibit, main
from torch import nn

import headwater as hw
from headwater.lab.comparison import Comparison
from headwater.lab.comparison_figures import plot_profile, plot_ratio, profile_data, ratio_data
from headwater.lab.numbers_in_words import times, with_interval
from headwater.networks import DeepNeuralNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAYER_SIZES = (3, 3, 3, 3, 3, 1)
NOTEBOOK_SEED = 123


def compute(small: bool) -> Comparison:
    seeds = [NOTEBOOK_SEED, *(seed for seed in range(24 if small else 200) if seed != NOTEBOOK_SEED)]
    networks = {
        "plain": partial(DeepNeuralNetwork, LAYER_SIZES, False),
        "shortcuts": partial(DeepNeuralNetwork, LAYER_SIZES, True),
    }
    sample = torch.tensor([[1.0, 0.0, -1.0]])
    return hw.compare(networks, sample, torch.zeros(1, 1), loss=nn.MSELoss(), seeds=seeds)


def claims(data: Comparison) -> list[Claim]:
    ratio = data.ratios["shortcuts"]
    gain = ratio.layers[0].gain
    of_notebook = 10.0 ** _notebook_decades(data)[0]
    weight, slope, backward = _notebook_factors(data)
    ends = [data.profile[name].first_to_last for name in ("plain", "shortcuts")]
    return [
        Claim(
            f"With shortcuts the first layer's gain is {with_interval(gain, ' ×')} higher, by the median of "
            f"{gain.num_pairs} seeds with its 95 % interval; the notebook's seed {NOTEBOOK_SEED} has {times(of_notebook)}.",
            gain.low > 1.0,
        ),
        Claim(
            f"First over last layer's weight gradient: {with_interval(ends[0])} without shortcuts, {with_interval(ends[1])} with.",
            ends[0].high < ends[1].low,
        ),
        Claim(
            f"Of the notebook's seed {NOTEBOOK_SEED}, {times(weight)} of the first layer's mean |dL/dW| is {times(slope)} loss slope and "
            f"{times(backward)} backward gain.",
            abs(slope * backward / weight - 1.0) < 1e-3 and abs(weight / 1099.766 - 1.0) < 1e-3,
        ),
    ]


def _notebook_decades(data: Comparison) -> list[float]:
    """log10 of the gain with shortcuts over the one without, of the notebook's seed, for each layer."""
    (pairs,) = ratio_data(data).seeds
    return pairs[data.seeds.index(NOTEBOOK_SEED)].tolist()


def _notebook_factors(data: Comparison) -> tuple[float, float, float]:
    """With over without shortcuts, of the notebook's seed: the first layer's weight gradient, the loss slope, the backward gain."""
    row = data.seeds.index(NOTEBOOK_SEED)
    without, with_shortcuts = (variant.measured for variant in data.variants)
    weight = with_shortcuts.weight_gradient_mean_abs[row, 0] / without.weight_gradient_mean_abs[row, 0]
    slope = with_shortcuts.cotangent_mean_abs[row] / without.cotangent_mean_abs[row]
    delta = with_shortcuts.gradient_mean_abs[row, 0] / without.gradient_mean_abs[row, 0]
    return float(weight), float(slope), float(delta / slope)


def draw(data: Comparison, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    plot_profile(profile_data(data), left)
    plot_ratio(ratio_data(data), right)
    notebook = [10.0**decades for decades in _notebook_decades(data)]
    right.plot(
        range(len(notebook)), notebook, "*", color="black", markersize=11, label=f"the notebook's seed {NOTEBOOK_SEED}"
    )
    right.legend(frameon=False, fontsize=8)


EXHIBIT = Exhibit("notebook_over_seeds", compute, claims, draw)

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
