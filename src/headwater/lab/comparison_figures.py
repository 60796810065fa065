"""Figures of comparisons. `*_data` computes what a figure shows, `plot_*` draws it; matplotlib is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headwater.lab.bands import Band, add_legend, decorate, draw_band, mark_unreached
from headwater.lab.comparison import Comparison
from headwater.lab.paired_statistics import log_ratios
from headwater.lab.variant_profile import SPREAD
from headwater.report.line_styles import line_style
from headwater.report.printable import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ProfileFigure(NamedTuple):
    """Gain per layer, in decades.

    Args:
        bands: one per variant: medians over seeds, and the middle 80 % of the seeds.
        expected: by mean-field theory, one array per variant, nan beside the stack that it is about; empty without theory.
        is_relative: positions are relative depths, since variants differ in depth; layers' numbers otherwise.
        num_seeds: of each variant.
    """

    bands: tuple[Band, ...]
    expected: tuple[np.ndarray, ...]
    is_relative: bool
    num_seeds: int


class RatioFigure(NamedTuple):
    """Gain of variants over that of the baseline, at equal cotangent: decades.

    Args:
        bands: one per variant but the baseline: medians of pairs with their 95 % intervals.
        seeds: log-ratios of every pair, one array of shape (seeds, layers) per variant; not finite where a pair has none.
        baseline: its name.
        is_relative: as in `ProfileFigure`.
    """

    bands: tuple[Band, ...]
    seeds: tuple[np.ndarray, ...]
    baseline: str
    is_relative: bool


class CurvesFigure(NamedTuple):
    """Learning curves.

    Args:
        bands: one per variant: medians over seeds and the middle 80 % of the seeds; inf where those have diverged.
        measure: "loss", "accuracy", "held_out_loss" or "held_out_accuracy".
        num_seeds: of each variant.
    """

    bands: tuple[Band, ...]
    measure: str
    num_seeds: int


def profile_data(comparison: Comparison) -> ProfileFigure:
    """What the figure of the profiles shows.

    >>> profile_data(Comparison((), (0,), "loss")).bands
    ()
    """
    profiles = comparison.profile
    is_relative = _is_relative(comparison)
    bands = [
        Band(
            label=name,
            position=_positions(profile.relative_depths, is_relative=is_relative),
            middle=np.array([median.value for median in profile.gain_decades]),
            low=np.array([low for low, _ in profile.spread_decades]),
            high=np.array([high for _, high in profile.spread_decades]),
        )
        for name, profile in profiles.items()
    ]
    expected = tuple(np.array(profile.expected_decades) for profile in profiles.values())
    return ProfileFigure(tuple(bands), expected, is_relative, len(comparison.seeds))


def plot_profile(data: ProfileFigure, ax: Axes) -> None:
    """Draws gain per layer: a line per variant, the band of its seeds, and dotted what theory expects.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> plot_profile(profile_data(Comparison((), (0,), "loss")), ax)
    >>> ax.get_ylabel()
    'gradient gain from the output (decades)'
    """
    for index, (band, expected) in enumerate(zip(data.bands, data.expected, strict=True)):
        draw_band(ax, band, index)
        if len(expected):
            ax.plot(band.position, expected, color="#000000", linewidth=1.3, linestyle=(0, (1, 1.2)), zorder=3)
        mark_unreached(ax, band, index)
    if any(map(len, data.expected)):
        ax.plot([], [], color="#000000", linewidth=1.3, linestyle=(0, (1, 1.2)), label="theory (mean field)")
    ax.axhline(0.0, color="#888888", linewidth=0.8, zorder=1)  # as much as at the output
    decorate(ax, "gradient gain from the output (decades)", is_relative=data.is_relative)
    ax.set_title(f"medians over {data.num_seeds} seeds; bands: middle 80 % of the seeds", fontsize=9, loc="left")
    add_legend(ax)


def ratio_data(comparison: Comparison) -> RatioFigure:
    """What the figure of the paired ratios shows.

    >>> ratio_data(Comparison((), (0,), "loss")).bands
    ()
    """
    is_relative = _is_relative(comparison)
    bands, seeds = [], []
    for name, ratio in comparison.ratios.items():
        gains = [layer.gain for layer in ratio.layers]
        values = [np.array([getattr(gain, end) for gain in gains]) for end in ("value", "low", "high")]
        depths = [layer.relative_depth for layer in ratio.layers]
        with np.errstate(divide="ignore"):
            bands.append(Band(name, _positions(depths, is_relative=is_relative), *map(np.log10, values)))
        seeds.append(_pairs(comparison, name))
    baseline = comparison.baseline.name if comparison.variants else ""
    return RatioFigure(tuple(bands), tuple(seeds), baseline, is_relative)


def plot_ratio(data: RatioFigure, ax: Axes) -> None:
    """Draws each pair of seeds as a dot, and the medians with their intervals over them; where one lies, nothing changes.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> plot_ratio(ratio_data(Comparison((), (0,), "loss")), ax)
    >>> ax.get_yscale()
    'log'
    """
    ax.set_yscale("log")
    for index, (band, seeds) in enumerate(zip(data.bands, data.seeds, strict=True)):
        style = line_style(index + 1)  # the style that the variant has in the other figures
        positions = np.broadcast_to(band.position, seeds.shape)
        ax.scatter(
            positions[np.isfinite(seeds)],
            10.0 ** seeds[np.isfinite(seeds)],
            s=5,
            color=style.color,
            alpha=0.25,
            linewidths=0,
        )
        middle, low, high = (10.0 ** np.where(np.isfinite(v), v, np.nan) for v in (band.middle, band.low, band.high))
        errors = np.array([middle - low, high - middle])
        errors[:, np.isnan(errors).any(axis=0)] = 0.0  # no interval, no bar
        ax.errorbar(
            band.position, middle, errors, label=band.label, capsize=3, linewidth=1.5, markersize=5, **style._asdict()
        )
    ax.axhline(1.0, color="#888888", linewidth=0.8, zorder=1)
    decorate(ax, "gain / gain of the baseline (ratio)", is_relative=data.is_relative)
    title = f"baseline '{shortened(data.baseline, 24)}'; dots: pairs of a seed; bars: 95 % of medians"
    ax.set_title(title, fontsize=9, loc="left")
    add_legend(ax)


def curves_data(comparison: Comparison, measure: str | None = None) -> CurvesFigure:
    """What the figure of the learning curves shows.

    Args:
        comparison: with training.
        measure: "loss", "accuracy", "held_out_loss" or "held_out_accuracy"; None for what tells most.

    >>> curves_data(Comparison((), (0,), "loss")).bands
    ()
    """
    curves = comparison.curves
    if measure is None:
        measure = next(iter(curves.values())).measure if curves else "loss"
    bands = []
    for name, curve in curves.items():
        diverged = f" ({curve.num_diverged} of {len(curve.diverged_at)} diverged)" if curve.num_diverged else ""
        middle = np.array([median.value for median in curve.medians(measure)])
        low, high = np.quantile(curve.ranked(measure), SPREAD, axis=0, method="inverted_cdf")
        bands.append(Band(name + diverged, curve.steps, middle, low, high))
    return CurvesFigure(tuple(bands), measure, len(comparison.seeds))


def plot_curves(data: CurvesFigure, ax: Axes) -> None:
    """Draws learning curves: losses on a logarithmic axis, accuracies from 0 to 1. What has diverged ends.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> plot_curves(curves_data(Comparison((), (0,), "loss")), ax)
    >>> ax.get_xlabel()
    'optimiser steps'
    """
    is_accuracy = data.measure.endswith("accuracy")
    for index, band in enumerate(data.bands):
        draw_band(ax, band, index)
    what = data.measure.replace("held_out_", "held-out ")
    decorate(ax, f"{what} (share of samples)" if is_accuracy else what, is_relative=True)
    ax.set_xlabel("optimiser steps")
    if is_accuracy:
        ax.set_ylim(0.0, 1.02)
    elif all((band.low[np.isfinite(band.low)] > 0.0).all() for band in data.bands):
        ax.set_yscale("log")
    ax.set_title(f"medians over {data.num_seeds} seeds; bands: middle 80 % of the seeds", fontsize=9, loc="left")
    add_legend(ax)


def write_figure(comparison: Comparison, path: str | Path) -> None:
    """Writes one picture of a comparison: profiles, paired ratios and, after training, learning curves side by side.

    Args:
        comparison: to draw.
        path: of the file; its ending names the format (.png, .pdf, .svg).

    Raises:
        OSError: the file cannot be written.
        ValueError: an ending that matplotlib does not know.
    """
    from matplotlib.figure import Figure

    num_panels = 3 if comparison.curves else 2
    figure = Figure(figsize=(5.2 * num_panels, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, num_panels)
    plot_profile(profile_data(comparison), axes[0])
    plot_ratio(ratio_data(comparison), axes[1])
    if comparison.curves:
        plot_curves(curves_data(comparison), axes[2])
    figure.savefig(path)


def _pairs(comparison: Comparison, name: str) -> np.ndarray:
    """log10 of the gain over the baseline's, for each seed and layer."""
    measured = next(variant.measured for variant in comparison.variants if variant.name == name)
    base = comparison.baseline.measured
    where = [base.layers.index(layer.baseline_layer) for layer in comparison.ratios[name].layers]
    with np.errstate(invalid="ignore"):
        gains, others = 10.0**measured.gain_decades, 10.0 ** base.gain_decades[:, where]
    return log_ratios(gains, others)


def _is_relative(comparison: Comparison) -> bool:
    return len({len(variant.measured.layers) for variant in comparison.variants}) > 1


def _positions(relative_depths: Sequence[float], *, is_relative: bool) -> np.ndarray:
    return np.array(relative_depths) if is_relative else np.arange(len(relative_depths))
