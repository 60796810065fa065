"""How the gallery draws formulas beside random networks, and names its axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.lab.simulation import Agreement
from headwater.report.line_styles import line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def add_agreement(agreement: Agreement, ax: Axes, index: int, label: str | None = None) -> None:
    """Draws random networks as markers with two standard errors, and the formula as a line, in the index-th style.

    For several formulas in one panel; `headwater.lab.simulation.agreement_figure` draws one, with its tolerance.
    """
    style = line_style(index)
    errors = 2.0 * np.array(agreement.error)
    # On a logarithmic axis a bar must not reach zero.
    low = np.minimum(errors, 0.9 * np.array(agreement.simulated))
    ax.errorbar(
        agreement.places,
        agreement.simulated,
        (low, errors),
        color=style.color,
        marker=style.marker,
        linestyle="none",
        markersize=6,
        capsize=3,
        label=label or agreement.title,
    )
    ax.plot(agreement.places, agreement.predicted, color=style.color, linestyle=style.linestyle, linewidth=1.5)


def finish(ax: Axes, *, title: str, xlabel: str, ylabel: str, loc: Any = "best") -> None:
    """Names the axes with their units, and adds a light grid and a legend (none for a loc of None)."""
    ax.set_title(title, fontsize=9, loc="left")
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.grid(visible=True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if loc is not None:
        ax.legend(frameon=False, fontsize=8, loc=loc)


def depth_axis(ax: Axes, depths: tuple[float, ...]) -> None:
    """A logarithmic axis with these depths as its ticks."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(depths, [f"{depth:g}" for depth in depths])
    ax.minorticks_off()
