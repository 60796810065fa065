"""The demo's figure: how much gradient reaches each layer, in both experiments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headwater.cli.errors import CommandError
from headwater.recording import Recording
from headwater.report.figures import gain_profile_data, plot_gain_profile


def write_figure(panels: Mapping[str, Mapping[str, Recording]], path: Path) -> None:
    """Draws one panel per title, and in it one gain profile per named recording.

    Raises:
        CommandError: the file cannot be written.

    >>> from headwater.recording import RecordingBuilder
    >>> write_figure({"title": {"a": RecordingBuilder().build()}}, Path("no such folder/figure.png"))
    Traceback (most recent call last):
    headwater.cli.errors.CommandError: cannot write the figure ...
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=150, layout="constrained")
    (axes,) = figure.subplots(1, len(panels), squeeze=False)
    for ax, (title, recordings) in zip(axes, panels.items(), strict=True):
        for label, recording in recordings.items():
            plot_gain_profile(gain_profile_data(recording), ax, label=label)
        ax.set_title(title, fontsize=10, loc="left")
        ax.legend(frameon=False, fontsize=9, loc="lower right")
    try:
        figure.savefig(path)
    except OSError as error:
        raise CommandError(
            f"cannot write the figure '{path}': {error.strerror or error}; name another file with --output"
        ) from None
