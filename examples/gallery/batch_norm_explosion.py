"""BatchNorm without shortcuts: gradients grow by 1.211 a layer toward the input.

python examples/gallery/batch_norm_explosion.py [--small] [--out DIR]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from drawing import add_agreement, depth_axis, finish
from exhibit import Claim, Exhibit, main

from headwater.lab.bands import Band, draw_band
from headwater.lab.ensembles import measure_ensemble
from headwater.lab.simulation import Agreement
from headwater.lab.simulation import batch_norm_explosion as simulated_explosion
from headwater.networks import NetworkSpec
from headwater.theory import batch_norm_gradient_factor
from headwater.theory.activations import LINEAR, RELU, TANH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 256
SETTLING = 6  # layers at either end, in which the samples, or their gradients, become as unlike as they stay
NAMES = {LINEAR.name: "linear", RELU.name: "ReLU", TANH.name: "tanh"}


class Explosion(NamedTuple):
    """Gain over depth without and with BatchNorm; the factor per layer for each size of the batch."""

    without: Band
    with_norm: Band
    factor: float
    batches: tuple[Agreement, ...]
    num_seeds: int


def compute(small: bool) -> Explosion:
    depth, width, num_seeds = (24, 128, 3) if small else (40, 256, 8)
    without, with_norm = (_profile(norm, depth, width, num_seeds) for norm in ("none", "batch"))
    inner = with_norm.middle[SETTLING:-SETTLING]
    factor = 10.0 ** ((inner[0] - inner[-1]) / (len(inner) - 1))
    size = {"width": 128, "seeds": 4} if small else {"width": 400, "seeds": 4}
    sizes = (8, 64) if small else (8, 16, 32, 64, 128)
    batches = tuple(simulated_explosion(each, sizes, **size) for each in (RELU, TANH, LINEAR))
    return Explosion(without, with_norm, factor, batches, num_seeds)


def _profile(norm: str, depth: int, width: int, num_seeds: int) -> Band:
    """Decades of the gradient's gain at each layer: medians over seeds and the middle 80 %."""
    spec = NetworkSpec(
        depth=depth, width=width, num_inputs=width, initialisation="he", normalisation=norm, norm_position="post"
    )
    inputs = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(0))
    decades = measure_ensemble(spec, range(num_seeds), inputs).gain_decades[:, :depth]
    low, middle, high = np.quantile(decades, (0.1, 0.5, 0.9), axis=0)
    label = "He, BatchNorm before ReLU" if norm == "batch" else "He, no norm"
    return Band(label, np.arange(depth), middle, low, high)


def claims(data: Explosion) -> list[Claim]:
    depth = len(data.with_norm.position)
    decades = data.with_norm.middle[0] - data.with_norm.middle[-1]
    plain = data.without.middle[0] - data.without.middle[-1]
    theory = batch_norm_gradient_factor(RELU, BATCH)
    furthest = max(each.furthest for each in data.batches)
    return [
        Claim(
            f"With BatchNorm a plain ReLU network's gradient grows by {data.factor:.3f} per layer toward the input (theory {theory:.3f}, "
            f"1.211 for large batches): over {depth} layers {decades:.1f} decades.",
            abs(data.factor / theory - 1.0) < 0.02,
        ),
        Claim(
            f"The same network without a norm has {plain:+.1f} decades, less than a quarter of that.",
            abs(plain) < 0.25 * decades,
        ),
        Claim(f"Every batch lies within 2 % of theory: the furthest at {furthest:.0%} of that.", furthest <= 1.0),
    ]


def draw(data: Explosion, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for index, band in enumerate((data.without, data.with_norm)):
        draw_band(left, band, index)
    position, middle = data.with_norm.position, data.with_norm.middle
    anchor = len(position) - 1 - SETTLING
    slope = np.log10(batch_norm_gradient_factor(RELU, BATCH))
    left.plot(position, middle[anchor] + slope * (anchor - position), color="black", linestyle=":", label="theory")
    finish(
        left,
        title=f"medians over {data.num_seeds} seeds; bands: middle 80 % of the seeds; batch {BATCH}",
        xlabel="layer (0 is next to the input)",
        ylabel="gradient gain from the output (decades)",
    )
    for index, found in enumerate(data.batches):
        name = found.title.split(maxsplit=1)[0]
        add_agreement(found, right, index, f"{NAMES[name]} layers with BatchNorm")
    depth_axis(right, data.batches[0].places)
    finish(
        right,
        title="markers measured (± 2 standard errors), lines theory",
        xlabel="samples of a batch",
        ylabel="gradient norm (factor per layer)",
    )


EXHIBIT = Exhibit("batch_norm_explosion", compute, claims, draw)

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
