"""Figures of recordings. `*_data` computes what a figure shows, `plot_*` draws it; matplotlib is an extra."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from headwater.analysis.gradient_path import trainable_layers
from headwater.recording import Recording
from headwater.report.line_styles import line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


class GainProfile(NamedTuple):
    """How much of the output's gradient arrives at each trainable layer, in execution order.

    Args:
        modules: the layers' names.
        gain_decades: log10(norm of the activation gradient / norm of the cotangent); -inf where no gradient arrives
            at all, nan where none was measured.
    """

    modules: tuple[str, ...]
    gain_decades: tuple[float, ...]


def gain_profile_data(recording: Recording) -> GainProfile:
    """The gain from the output to each trainable layer; empty where no backward pass was recorded.

    >>> from headwater.recording import RecordingBuilder
    >>> gain_profile_data(RecordingBuilder().build())
    GainProfile(modules=(), gain_decades=())
    """
    layers = trainable_layers(recording)
    return GainProfile(
        modules=tuple(layer.call.module for layer in layers),
        gain_decades=tuple(layer.gain_decades for layer in layers),
    )


def plot_gain_profile(data: GainProfile, ax: Axes, *, label: str = "") -> Line2D:
    """The line drawn for one profile; call again on the same axes to lay another one over it.

    Layers are numbered from 0, next to the input, to the right. A layer that no gradient reaches is a cross at the
    bottom.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> line = plot_gain_profile(GainProfile(("0", "1"), (-3.0, 0.0)), ax, label="plain")
    >>> line.get_label(), ax.get_ylabel()
    ('plain', 'gradient gain from the output (decades)')
    """
    profiles = [line for line in ax.lines if line.get_marker() != "None"]
    if not profiles:
        _decorate(ax)
    style = line_style(len(profiles))
    layers = range(len(data.gain_decades))
    finite = [gain if math.isfinite(gain) else math.nan for gain in data.gain_decades]
    (line,) = ax.plot(layers, finite, label=label, markersize=4.5, linewidth=1.5, **style._asdict())
    unreached = [layer for layer in layers if data.gain_decades[layer] == -math.inf]
    if unreached:
        ax.scatter(unreached, [0.02] * len(unreached), transform=ax.get_xaxis_transform(), marker="x", c=style.color)
    return line


def _decorate(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("layer (0 is next to the input)")
    ax.set_ylabel("gradient gain from the output (decades)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    ax.axhline(0.0, color="#888888", linewidth=0.8, zorder=1)  # as much as at the output
    ax.grid(visible=True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
