"""Which tanh networks train: depth over weight variance, with theory's 6 xi over it.

python examples/gallery/trainability.py [--small] [--out DIR]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from exhibit import Claim, Exhibit, main

import headwater as hw
from headwater.lab.sweep.heat_map import HeatMap, heat_map_data, plot_heat_map
from headwater.theory.activations import TANH
from headwater.theory.mean_field import critical_weight_variance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BIAS_VARIANCE = 0.05
LEARNED = 0.55  # accuracy: halfway from chance to 1
CLEARLY = 1.5  # times 6 xi: what lies further from the curve than this factor


class Trainability(NamedTuple):
    """The heat map; the share of cells that learned clearly below the curve, and clearly above it; the best variance at the greatest depth."""

    shown: HeatMap
    below: float
    above: float
    best_at_greatest_depth: float


def compute(small: bool) -> Trainability:
    variances = [0.5, 1.75] if small else [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0]
    result = hw.sweep(
        {"weight_variance": variances, "depth": [4, 16] if small else [4, 8, 12, 16, 20, 24, 32, 40, 48]},
        base={
            "activation": "tanh",
            "width": 64,
            "num_inputs": 64,
            "num_outputs": 10,
            "initialisation": "lecun",
            "bias_variance": BIAS_VARIANCE,
        },
        seeds=1 if small else 4,
        batch=128,
        data="digits",
        train=100 if small else 200,
        train_seeds=1,
        learning_rate=0.05,
        findings=False,
        executor="serial" if small else None,
        progress=False,
    )
    shown = heat_map_data(result)
    limit = np.interp(shown.x, shown.curve_x, shown.curve_y)
    depths, has_learned = shown.y[:, None], shown.values >= LEARNED
    below, above = depths * CLEARLY <= limit, depths >= CLEARLY * limit
    best = float(shown.x[int(np.argmax(shown.values[-1]))])
    return Trainability(shown, float(has_learned[below].mean()), float(has_learned[above].mean()), best)


def claims(data: Trainability) -> list[Claim]:
    critical = critical_weight_variance(TANH, BIAS_VARIANCE)
    return [
        Claim(
            f"{data.below:.0%} of the tanh networks clearly below 6 ξ learn the digits, and {data.above:.0%} of those clearly above it "
            f"(by a factor of {CLEARLY:g}).",
            data.below >= 0.9 and data.above <= 0.35,
        ),
        Claim(
            f"At depth {data.shown.y[-1]:.0f} the weight variance that learns best is {data.best_at_greatest_depth:g}; the critical one is "
            f"{critical:.2f}.",
            abs(data.best_at_greatest_depth - critical) <= 0.75,
        ),
    ]


def draw(data: Trainability, figure: Figure) -> None:
    plot_heat_map(data.shown, figure.subplots())


EXHIBIT = Exhibit("trainability", compute, claims, draw, size_inches=(8.0, 5.0))

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
