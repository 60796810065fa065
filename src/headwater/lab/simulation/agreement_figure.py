"""The figure of a formula beside random networks: points with 95 % intervals, and the line that they should lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headwater.lab.simulation.agreement import Agreement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Blue and vermilion (Okabe & Ito 2008); a line and points are told apart in grey, too.
_SIMULATED, _PREDICTED = "#0072B2", "#D55E00"
_DEVIATIONS = 1.96  # of a 95 % interval
_DECADES_FOR_LOG = 1.5  # from the smallest to the largest value, from which the axis is logarithmic


def plot_agreement(data: Agreement, ax: Axes) -> None:
    """Draws points with their 95 % intervals over networks, the predicted line, and what is allowed around it as a band.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> plot_agreement(Agreement("tanh", "layers", "χ", (1.0, 2.0), (1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.1, 0.1)), ax)
    >>> ax.get_title(), ax.get_xlabel(), ax.get_ylabel()
    ('tanh', 'layers', 'χ')
    """
    low, high = zip(*((p - a, p + a) for p, a in zip(data.predicted, data.allowed, strict=True)), strict=True)
    ax.fill_between(data.places, low, high, color=_PREDICTED, alpha=0.15, linewidth=0.0, label="stated tolerance")
    ax.plot(data.places, data.predicted, color=_PREDICTED, linewidth=1.6, label="predicted")
    errors = [_DEVIATIONS * error for error in data.error]
    ax.errorbar(
        data.places, data.simulated, errors, fmt="o", color=_SIMULATED, markersize=5, capsize=3, label="simulated, 95 %"
    )
    _choose_scales(data, ax)
    ax.set_title(data.title)
    ax.set_xlabel(data.variable)
    ax.set_ylabel(data.quantity)
    ax.grid(visible=True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")


def _choose_scales(data: Agreement, ax: Axes) -> None:
    if _spans_decades(data.places):
        ax.set_xscale("log")
    if _spans_decades(data.predicted):
        ax.set_yscale("log")


def _spans_decades(values: tuple[float, ...]) -> bool:
    return min(values) > 0.0 and max(values) > 10.0**_DECADES_FOR_LOG * min(values)
