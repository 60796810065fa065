"""Lines with bands: how medians over seeds, and the seeds around them, are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headwater.report.line_styles import line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNREACHED_HEIGHT = 0.02  # of the axes, for layers that no gradient reaches


class Band(NamedTuple):
    """One line with a band.

    Args:
        label: for the legend.
        position: on the x axis, shape (N,).
        middle: medians over seeds.
        low, high: the band.
    """

    label: str
    position: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_band(ax: Axes, band: Band, index: int) -> None:
    """Draws the medians as a line in the index-th style and the band around it; what is not finite is a gap.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> draw_band(ax, Band("one", *[np.array([0.0, np.inf])] * 4), 0)
    >>> ax.lines[0].get_ydata().tolist()
    [0.0, nan]
    """
    style = line_style(index)
    finite = np.where(np.isfinite(band.middle), band.middle, np.nan)
    every = max(1, len(finite) // 12)
    ax.plot(band.position, finite, label=band.label, markersize=4.5, linewidth=1.5, markevery=every, **style._asdict())
    low, high = (np.where(np.isfinite(end), end, np.nan) for end in (band.low, band.high))
    ax.fill_between(band.position, low, high, color=style.color, alpha=0.15, linewidth=0)
    for end in (low, high):  # edges: bands that lie over each other stay apart in grey
        ax.plot(band.position, end, color=style.color, linewidth=0.5, alpha=0.6)


def mark_unreached(ax: Axes, band: Band, index: int) -> None:
    """Draws a cross at the bottom for each layer that no gradient reaches in most seeds.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> mark_unreached(ax, Band("one", *[np.array([0.0, -np.inf])] * 4), 0)
    >>> len(ax.collections)
    1
    """
    unreached = band.position[band.middle == -np.inf]
    if len(unreached):
        heights = np.full(len(unreached), _UNREACHED_HEIGHT)
        ax.scatter(unreached, heights, transform=ax.get_xaxis_transform(), marker="x", c=line_style(index).color)


def decorate(ax: Axes, ylabel: str, *, is_relative: bool) -> None:
    """Labels the axes and draws a light grid.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> decorate(ax, "gain", is_relative=False)
    >>> ax.get_xlabel()
    'layer (0 is next to the input)'
    """
    from matplotlib.ticker import MaxNLocator

    if is_relative:
        ax.set_xlabel("relative depth (0: next to the input, 1: next to the output)")
    else:
        ax.set_xlabel("layer (0 is next to the input)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylabel(ylabel)
    ax.grid(visible=True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def add_legend(ax: Axes) -> None:
    """Adds a legend where a line has a label.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> add_legend(ax)
    >>> ax.get_legend() is None
    True
    """
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, fontsize=8, loc="best")
