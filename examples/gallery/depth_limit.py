"""How deep a network with PyTorch's default initialisation may be: about six depth scales of its gradient.

python examples/gallery/depth_limit.py [--small] [--out DIR]
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from drawing import finish
from exhibit import Claim, Exhibit, main
from torch import nn

import headwater as hw
from headwater.cli.demo.digits import load_digits
from headwater.lab.bands import Band, draw_band
from headwater.networks import NetworkSpec
from headwater.report.line_styles import line_style
from headwater.theory import Activation, chi, fixed_point, pytorch_default
from headwater.theory.activations import LINEAR, RELU, TANH
from headwater.theory.mean_field import depth_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH_SCALES = 6.0  # Schoenholz et al. 2017, arXiv 1611.01232
LEARNED = 0.55  # accuracy: halfway from chance to 1
NUM_STEPS = 300
LEARNING_RATE = 0.1
CRITICAL = "tanh, critical"
DEFAULTS = {"ReLU": "relu", "tanh": "tanh", "linear": "linear"}
THEORY = {"ReLU": RELU, "tanh": TANH, "linear": LINEAR}


class DepthLimit(NamedTuple):
    """Accuracy over depth for each kind of network: medians and range of the seeds; 6 xi, and the depth up to which they learned."""

    accuracies: dict[str, Band]
    limits: dict[str, float]
    learned_up_to: dict[str, float]
    num_seeds: int


def compute(small: bool) -> DepthLimit:
    depths, num_seeds, width = ((2, 4, 8), 1, 32) if small else ((2, 3, 4, 5, 6, 8, 10), 3, 64)
    names = ["ReLU", "tanh", CRITICAL] if small else [*DEFAULTS, CRITICAL]
    specs = {(name, depth): _spec(name, depth, width) for name in names for depth in depths}
    digits, num_samples = load_digits(), 512 if small else None
    found = hw.compare(
        {f"{name} {depth}": spec for (name, depth), spec in specs.items()},
        digits.train_images[:num_samples],
        digits.train_labels[:num_samples],
        loss=nn.CrossEntropyLoss(),
        seeds=num_seeds,
        train=NUM_STEPS,
        batch_size=128,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE),
    )
    accuracies = {
        name: _band(name, depths, [found.curves[f"{name} {depth}"].ranked("accuracy")[:, -1] for depth in depths])
        for name in names
    }
    limits = {name: DEPTH_SCALES * _depth_scale(THEORY[name], width) for name in names if name != CRITICAL}
    return DepthLimit(accuracies, limits, {name: _learned_up_to(band) for name, band in accuracies.items()}, num_seeds)


def _spec(name: str, depth: int, width: int) -> NetworkSpec:
    initialisation = "critical" if name == CRITICAL else "default"
    activation = DEFAULTS.get(name, "tanh")
    return NetworkSpec(
        depth=depth,
        width=width,
        activation=activation,
        initialisation=initialisation,
        num_inputs=64,
        num_outputs=10,
    )


def _band(name: str, depths: tuple[int, ...], rows: list[np.ndarray]) -> Band:
    low, middle, high = np.quantile(np.array(rows), (0.0, 0.5, 1.0), axis=1)
    return Band(name, np.array(depths, dtype=float), middle, low, high)


def _depth_scale(activation: Activation, width: int) -> float:
    """Xi of the gradient at the fixed point, which is xi_c too: there all inputs become alike."""
    initialisation = pytorch_default(width)
    variance = fixed_point(activation, initialisation)
    return depth_scale(chi(activation, initialisation, variance))


def _learned_up_to(band: Band) -> float:
    """The depth at which the median first falls below `LEARNED`, between two depths by a line; inf where it does not."""
    below = np.flatnonzero(band.middle < LEARNED)
    if not len(below) or below[0] == 0:
        return math.inf if not len(below) else 0.0
    last = below[0] - 1
    (from_depth, to_depth), (above, under) = band.position[last : last + 2], band.middle[last : last + 2]
    return float(from_depth + (to_depth - from_depth) * (above - LEARNED) / (above - under))


def claims(data: DepthLimit) -> list[Claim]:
    told = ", ".join(
        f"{data.learned_up_to[name]:.1f} ({name}; 6\u00a0ξ\u00a0=\u00a0{limit:.1f})"
        for name, limit in data.limits.items()
    )
    deepest = float(data.accuracies[CRITICAL].middle[-1])
    return [
        Claim(
            f"With PyTorch's default initialisation networks learn up to a depth of {told} in {NUM_STEPS} steps of SGD.",
            all(abs(data.learned_up_to[name] - limit) <= 0.4 * limit for name, limit in data.limits.items()),
        ),
        Claim(
            f"At tanh's critical initialisation the deepest, {data.accuracies[CRITICAL].position[-1]:.0f} layers, still reaches "
            f"{deepest:.2f}.",
            deepest > 0.9,
        ),
        Claim(
            "The order of the limits is theory's: ReLU's is the lowest.",
            data.learned_up_to["ReLU"] == min(data.learned_up_to.values()),
        ),
    ]


def draw(data: DepthLimit, figure: Figure) -> None:
    ax = figure.subplots()
    for index, (name, band) in enumerate(data.accuracies.items()):
        label = name if name == CRITICAL else f"{name}, default"
        draw_band(ax, band._replace(label=label), index)
        if name in data.limits:
            style = line_style(index)
            ax.axvline(data.limits[name], color=style.color, linestyle=style.linestyle, linewidth=1.2)
            side = {"linear": "left"}.get(name, "right")  # tanh and linear have nearly the same limit
            ax.text(data.limits[name], 1.06, f" 6 ξ {name} ", color=style.color, fontsize=8, ha=side)
    ax.axhline(LEARNED, color="#888888", linewidth=0.8)
    ax.axhline(0.1, color="#888888", linewidth=0.8, linestyle=":")
    deepest = float(data.accuracies[CRITICAL].position[-1])
    ax.text(deepest, LEARNED + 0.01, "learned: halfway to 1", fontsize=8, color="#555555", ha="right")
    ax.text(2.0, 0.11, "chance", fontsize=8, color="#555555")
    ax.set_ylim(0.0, 1.13)
    seeds = f"medians and range of {data.num_seeds} seeds" if data.num_seeds > 1 else "1 seed"
    finish(
        ax,
        title=f"scikit-learn's digits; SGD, learning rate {LEARNING_RATE}, batches of 128; {seeds}",
        xlabel="depth (hidden layers)",
        ylabel="accuracy on the training data (share of samples)",
        loc=(0.8, 0.6),
    )


EXHIBIT = Exhibit("depth_limit", compute, claims, draw, size_inches=(8.0, 4.8))

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
