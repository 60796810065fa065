"""Signal and gradient over blocks with shortcuts: 2^L, and what keeps them small.

python examples/gallery/residual_growth.py [--small] [--out DIR]
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from drawing import add_agreement, depth_axis, finish
from exhibit import Claim, Exhibit, main

from headwater.lab.ensembles import measure_ensemble
from headwater.lab.simulation import Agreement, growth
from headwater.networks import NetworkSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "identity": "x + branch(x): $2^L$",
    "scaled": "x + branch(x) / √L: towards e",
    "pre_layer_norm": "LayerNorm before the branch: 1 + L",
    "pre_batch_norm": "BatchNorm before the branch: 1 + L",
    "rezero": "ReZero: 1",
}
QUANTITIES = ("signal", "gradient")


class Growths(NamedTuple):
    """For each quantity and kind of shortcut the growth over depths; and the signal's with Fixup in a residual network."""

    found: dict[str, dict[str, Agreement]]
    fixup: tuple[float, ...]
    depths: tuple[int, ...]


def compute(small: bool) -> Growths:
    depths = (1, 2, 4, 8) if small else (1, 2, 4, 8, 16)
    size = {"width": 100, "seeds": 8} if small else {"width": 200, "seeds": 24}
    found = {
        quantity: {kind: growth(kind, depths, quantity=quantity, **size) for kind in LABELS} for quantity in QUANTITIES
    }
    return Growths(found, tuple(_fixup_growth(depth, **size) for depth in depths), depths)


def _fixup_growth(num_blocks: int, width: int, seeds: int) -> float:
    """Median growth of the mean square from the first layer, which has no shortcut, to behind the last block."""
    spec = NetworkSpec(depth=1 + num_blocks, width=width, num_inputs=width, shortcut="identity", initialisation="fixup")
    inputs = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    rms = measure_ensemble(spec, range(seeds), inputs).activation_rms
    return float(np.median((rms[:, -2] / rms[:, 0]) ** 2))


def claims(data: Growths) -> list[Claim]:
    signal, gradient = data.found["signal"], data.found["gradient"]
    depth = data.depths[-1]
    ends = {kind: each.simulated[-1] for kind, each in signal.items()}
    furthest = {
        (quantity, kind): each.furthest for quantity in QUANTITIES for kind, each in data.found[quantity].items()
    }
    worst = max(furthest, key=lambda key: furthest[key])
    return [
        Claim(
            f"{depth} blocks with a shortcut multiply the signal's mean square by {ends['identity']:,.0f} "
            f"($2^{{{depth}}}$ = {2**depth:,}); branches / √L make it {ends['scaled']:.2f}, a norm before the branch "
            f"{ends['pre_layer_norm']:.1f}, ReZero and Fixup {ends['rezero']:.0f}.",
            abs(ends["identity"] / 2**depth - 1.0) < 0.1 + 0.02 * depth
            and ends["scaled"] < math.e
            and abs(ends["pre_layer_norm"] / (1 + depth) - 1.0) < 0.1
            and ends["rezero"] == 1.0
            and np.allclose(data.fixup, 1.0, atol=1e-5, rtol=0.0),
        ),
        Claim(
            f"Every point lies within its formula's tolerance; the furthest ({' of '.join(worst)}) at "
            f"{furthest[worst]:.0%} of it.",
            furthest[worst] <= 1.0,
        ),
        Claim(
            f"BatchNorm before ReLU branches lets the gradient grow by {gradient['pre_batch_norm'].simulated[-1]:.1f}, "
            f"faster than LayerNorm's {gradient['pre_layer_norm'].simulated[-1]:.1f}.",
            gradient["pre_batch_norm"].simulated[-1] > gradient["pre_layer_norm"].simulated[-1],
        ),
    ]


def draw(data: Growths, figure: Figure) -> None:
    for ax, quantity in zip(figure.subplots(1, 2, sharey=True), QUANTITIES, strict=True):
        for index, (kind, found) in enumerate(data.found[quantity].items()):
            add_agreement(found, ax, index, LABELS[kind])
        if quantity == "signal":
            ax.plot(data.depths, data.fixup, "x", color="black", markersize=9, label="Fixup (before its first step): 1")
        ax.set_yscale("log", base=10)
        depth_axis(ax, tuple(map(float, data.depths)))
        what = {"signal": "mean square of the stream", "gradient": "squared norm of the gradient"}[quantity]
        finish(
            ax,
            title=f"{what}: markers measured, lines theory",
            xlabel="blocks L",
            ylabel="growth over all blocks (factor)",
            loc="upper left" if quantity == "signal" else None,
        )


EXHIBIT = Exhibit("residual_growth", compute, claims, draw)

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
