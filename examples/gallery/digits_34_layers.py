"""A 34-layer ReLU network on scikit-learn's digits: what makes it train, and what alone does not.

python examples/gallery/digits_34_layers.py [--small] [--out DIR]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exhibit import Claim, Exhibit, main
from torch import nn

import headwater as hw
from headwater.cli.demo.digits import load_digits
from headwater.lab.comparison import Comparison
from headwater.lab.comparison_figures import curves_data, plot_curves, plot_profile, profile_data
from headwater.networks import NetworkSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VARIANTS = {
    "Glorot": {"initialisation": "glorot"},
    "Glorot, BatchNorm": {"initialisation": "glorot", "normalisation": "batch", "norm_position": "post"},
    "Glorot, shortcuts": {"initialisation": "glorot", "shortcut": "identity"},
    "He": {"initialisation": "he"},
    "Glorot, shortcuts with branches / √L": {"initialisation": "glorot", "shortcut": "scaled"},
}
PLAIN, BATCH_NORM, SHORTCUTS, HE, SCALED = VARIANTS


def compute(small: bool) -> Comparison:
    width = 32 if small else 64
    common = {"depth": 33, "width": width, "activation": "relu", "num_inputs": 64, "num_outputs": 10}
    digits, num_samples = load_digits(), 512 if small else None
    return hw.compare(
        {name: NetworkSpec.from_mapping({**common, **fields}) for name, fields in VARIANTS.items()},
        digits.train_images[:num_samples],
        digits.train_labels[:num_samples],
        loss=nn.CrossEntropyLoss(),
        seeds=1 if small else 6,
        train=60 if small else 300,
        batch_size=64 if small else 128,
        held_out=(digits.test_images[:num_samples], digits.test_labels[:num_samples]),
    )


def claims(data: Comparison) -> list[Claim]:
    ends = {name: curve.medians("held_out_accuracy")[-1].value for name, curve in data.curves.items()}
    ranked = data.curves[PLAIN].ranked("held_out_accuracy")[:, -1]
    gains = {name: profile.gain_decades[0].value for name, profile in data.profile.items()}
    assert data.training is not None
    return [
        Claim(
            f"34 layers on digits, held-out accuracy after {data.training.num_steps} steps: {ends[PLAIN]:.2f} with Glorot weights "
            f"({ranked.min():.2f} to {ranked.max():.2f} over the seeds), {ends[BATCH_NORM]:.2f} with BatchNorm alone, {ends[SHORTCUTS]:.2f} with shortcuts, {ends[HE]:.2f} with He weights, "
            f"{ends[SCALED]:.2f} with shortcuts and branches / √L.",
            ends[SCALED] > ends[HE] > max(ends[PLAIN], ends[BATCH_NORM], ends[SHORTCUTS]),
        ),
        Claim(
            f"At the start the first layer's gain is {gains[PLAIN]:+.1f} decades with Glorot weights, {gains[BATCH_NORM]:+.1f} with "
            f"BatchNorm, {gains[SHORTCUTS]:+.1f} with shortcuts, {gains[HE]:+.1f} with He weights, {gains[SCALED]:+.1f} with branches / √L.",
            gains[PLAIN] < -2.0 and gains[BATCH_NORM] > 1.0 and gains[SHORTCUTS] > 2.0 and abs(gains[SCALED]) < 1.0,
        ),
    ]


def draw(data: Comparison, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    plot_profile(profile_data(data), left)
    plot_curves(curves_data(data), right)
    left.set_title(f"before training: {left.get_title(loc='left')}", fontsize=9, loc="left")
    assert data.training is not None
    right.set_title(f"{data.training.optimizer}, batches of {data.training.batch_size}", fontsize=9, loc="left")
    if (legend := right.get_legend()) is not None:
        legend.remove()  # the left panel's says the same


EXHIBIT = Exhibit("digits_34_layers", compute, claims, draw, size_inches=(11.0, 5.0))

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
