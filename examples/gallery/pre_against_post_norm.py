"""The last branch's gradient with the norm before the branches and behind the sums.

python examples/gallery/pre_against_post_norm.py [--small] [--out DIR]
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
from headwater.lab.simulation import Agreement, last_branch_gradient
from headwater.networks import NetworkSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSITIONS = ("pre", "post")
LABELS = {"pre": "norm before the branches: 1 / √(1 + L)", "post": "norm behind the sums: 1 / √2"}
POSITIONS_OF_A_SAMPLE = 8


class Norms(NamedTuple):
    """Of both places of the norm: the last branch beside theory, and the weight gradients of transformers' feed-forward layers."""

    branches: dict[str, Agreement]
    transformers: dict[str, Band]
    num_seeds: int


def compute(small: bool) -> Norms:
    depths, size = (
        ((4, 16), {"width": 64, "seeds": 6}) if small else ((2, 4, 8, 16, 32, 64), {"width": 100, "seeds": 8})
    )
    branches = {position: last_branch_gradient(position, depths, **size) for position in POSITIONS}
    num_seeds = 4 if small else 12
    transformers = {
        position: _last_gradients(position, depths if small else depths[:-1], num_seeds) for position in POSITIONS
    }
    return Norms(branches, transformers, num_seeds)


def _last_gradients(position: str, depths: tuple[int, ...], num_seeds: int) -> Band:
    """Norm of the weight gradient of the last block's last layer, over the median of the shallowest: medians and middle 80 %."""
    norms = np.array([_last_gradient(position, depth, num_seeds) for depth in depths])
    low, middle, high = np.quantile(norms / np.median(norms[0]), (0.1, 0.5, 0.9), axis=1)
    return Band(LABELS[position].partition(":")[0], np.array(depths, dtype=float), middle, low, high)


def _last_gradient(position: str, num_blocks: int, num_seeds: int) -> np.ndarray:
    spec = NetworkSpec(
        family="transformer",
        depth=num_blocks,
        width=32,
        num_inputs=32,
        normalisation="layer",
        norm_position=position,
        shortcut="identity",
        initialisation="he",
    )
    inputs = torch.randn(8, POSITIONS_OF_A_SAMPLE, 32, generator=torch.Generator().manual_seed(0))
    measured = measure_ensemble(spec, range(num_seeds), inputs)
    return measured.weight_gradient_norm[:, measured.layers.index(f"layers.{num_blocks - 1}")]


def claims(data: Norms) -> list[Claim]:
    pre, post = (data.branches[position] for position in POSITIONS)
    ratios = {position: each.simulated[-1] / each.simulated[0] for position, each in data.branches.items()}
    shallow, deep = int(pre.places[0]), int(pre.places[-1])
    expected = ((1 + shallow) / (1 + deep)) ** 0.5
    ends = {position: float(band.middle[-1]) for position, band in data.transformers.items()}
    least, most = (f"{data.transformers['pre'].position[end]:.0f}" for end in (0, -1))
    furthest = max(pre.furthest, post.furthest)
    return [
        Claim(
            f"From {shallow} to {deep} blocks the last branch's gradient falls to {ratios['pre']:.2f} of itself with the norm before "
            f"the branches (theory {expected:.2f}), and to {ratios['post']:.2f} with the norm behind the sums (theory 1).",
            abs(ratios["pre"] / expected - 1.0) < 0.2 and abs(ratios["post"] - 1.0) < 0.2,
        ),
        Claim(f"Every point lies within 10 % of theory: the furthest at {furthest:.0%} of that.", furthest <= 1.0),
        Claim(
            f"In transformers at the start the last feed-forward gradient falls to {ends['pre']:.2f} from {least} to {most} blocks with "
            f"the norm before the branches, and to {ends['post']:.2f} with it behind the sums.",
            ends["pre"] < 0.75 and abs(ends["post"] - 1.0) < 0.25,
        ),
    ]


def draw(data: Norms, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for index, position in enumerate(POSITIONS):
        add_agreement(data.branches[position], left, index, LABELS[position])
        draw_band(right, data.transformers[position], index)
    left.set_yscale("log", base=2)
    depth_axis(left, data.branches["pre"].places)
    finish(
        left,
        title="residual ReLU branches: markers measured, lines theory",
        xlabel="blocks L",
        ylabel="weight gradient of the last branch (relative norm)",
    )
    right.set_yscale("log", base=2)
    depth_axis(right, tuple(data.transformers["pre"].position))
    finish(
        right,
        title=f"transformers: medians and middle 80 % of {data.num_seeds} seeds",
        xlabel="blocks of attention and feed-forward",
        ylabel="weight gradient of the last feed-forward (relative)",
    )


EXHIBIT = Exhibit("pre_against_post_norm", compute, claims, draw)

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
