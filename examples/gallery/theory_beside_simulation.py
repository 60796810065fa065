"""Formulas of `headwater.theory` that no other picture draws, each beside random networks, within its stated tolerance.

python examples/gallery/theory_beside_simulation.py [--small] [--out DIR]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exhibit import Claim, Exhibit, main

from headwater.lab import simulation
from headwater.lab.simulation import Agreement, plot_agreement
from headwater.theory.activations import LINEAR, RELU

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4


def compute(small: bool) -> tuple[Agreement, ...]:
    draws, width = (1000, 128) if small else (2000, 400)
    depths = (1, 4) if small else (1, 2, 4, 8)
    return (
        simulation.critical_line_of_tanh(width=width),
        simulation.chi_of_tanh(width=width),
        simulation.second_moment_of_relu(draws=4000),
        simulation.log_variance_of_gain(draws=draws),
        simulation.log_variance_with_shortcuts(draws=draws),
        simulation.relative_variance(RELU, depths),
        simulation.largest_singular_value(LINEAR, depths),
        simulation.shattering("none", depths),
        simulation.shattering("scaled", depths),
        simulation.born_dead(networks=1000 if small else 4000),
        simulation.gain_over_time("rnn", parameter=0.9),
        simulation.gain_over_time("lstm", parameter=1.0),
    )


def claims(data: tuple[Agreement, ...]) -> list[Claim]:
    furthest = max(data, key=lambda found: found.furthest)
    num_places = sum(len(found.places) for found in data)
    return [
        Claim(
            f"{len(data)} formulas at {num_places} places: random networks lie within the stated tolerance everywhere, the furthest "
            f"({furthest.title}) at {furthest.furthest:.0%} of it.",
            furthest.furthest <= 1.0,
        )
    ]


def draw(data: tuple[Agreement, ...], figure: Figure) -> None:
    panels = figure.subplots(-(-len(data) // COLUMNS), COLUMNS).flat
    for found, ax in zip(data, panels, strict=True):
        plot_agreement(found, ax)
        ax.title.set_fontsize(9)
        if found is not data[0]:
            ax.get_legend().remove()


EXHIBIT = Exhibit("theory_beside_simulation", compute, claims, draw, size_inches=(14.0, 9.0))

if __name__ == "__main__":
    sys.exit(main(EXHIBIT))
