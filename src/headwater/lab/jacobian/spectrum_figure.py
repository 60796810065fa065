"""The figure of a Jacobian's singular values: a histogram over decades, with the predicted density and edge over it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.lab.jacobian.spectrum import JacobianSpectrum
from headwater.theory.spectrum import SpectralDensity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

Array = NDArray[np.float64]

# Blue and vermilion (Okabe & Ito 2008): told apart by every eye, and by their lightness in grey.
_MEASURED, _PREDICTED = "#56B4E9", "#D55E00"
_DECADES = 3.0  # shown below the largest, where nearly all of the others lie


class SpectrumData(NamedTuple):
    """What the figure shows. Sizes are singular values; shares are of all min(inputs, outputs) of them, over all samples.

    Args:
        bin_edges: of the histogram, evenly over the decades, one more than shares.
        share_per_decade: in each bin.
        error: standard error of it, over probes or samples; nan where there is only one.
        share_below: what lies below the first bin and is not known to be zero.
        share_at_zero: what is zero, as far as the model's precision tells; nan where Lanczos measured, which does not.
        largest: the largest one measured.
        predicted_values: where the prediction is known; empty without one.
        predicted_per_decade: the predicted share per decade there.
        predicted_edge: the largest one predicted; nan without a prediction.
        predicted_at_zero: predicted share of zeros; nan without a prediction.
        num_singular_values: of each sample.
        num_samples: of the batch.
    """

    bin_edges: Array
    share_per_decade: Array
    error: Array
    share_below: float
    share_at_zero: float
    largest: float
    predicted_values: Array
    predicted_per_decade: Array
    predicted_edge: float
    predicted_at_zero: float
    num_singular_values: int
    num_samples: int


def spectrum_data(
    spectrum: JacobianSpectrum,
    prediction: SpectralDensity | None = None,
    *,
    num_bins: int = 30,
    decades: float | None = None,
) -> SpectrumData:
    """The histogram of all samples together, and the prediction for the same range.

    Args:
        spectrum: measured.
        prediction: of the same network.
        num_bins: of the histogram.
        decades: shown, below the largest singular value or the predicted edge. Without a number 3, and where Lanczos measured what
            it resolves: a factor of the number of its nodes.

    Raises:
        ValueError: every singular value is zero, so that there is no decade to show.

    >>> eye = JacobianSpectrum(np.ones((1, 1, 2)), np.full((1, 1, 2), 0.5), "dense", np.zeros(1), 2, 2)
    >>> data = spectrum_data(eye, num_bins=3)
    >>> round(float(data.share_per_decade.max() * np.diff(np.log10(data.bin_edges))[0]), 9)
    1.0
    """
    largest = float(spectrum.largest.max())
    if not largest > 0.0:
        raise ValueError("expected a Jacobian with a singular value that is not zero; every one of this network's is")
    edge = math.sqrt(prediction.edge) if prediction is not None else math.nan
    if decades is None:
        decades = _DECADES if spectrum.method == "dense" else min(_DECADES, math.log10(spectrum.weights.shape[2]) + 0.1)
    top = math.log10(np.nanmax([largest, edge])) + 0.1
    bin_edges = np.logspace(top - decades - 0.1, top, num_bins + 1)
    shares = np.stack([_histogram(values, weights, bin_edges) for values, weights in _groups(spectrum)])
    zeros = float(spectrum.share_of_zeros().value.mean()) if spectrum.method == "dense" else math.nan
    width = np.diff(np.log10(bin_edges))
    spread = shares.std(axis=0, ddof=1) / len(shares) ** 0.5 if len(shares) > 1 else np.full(num_bins, math.nan)
    return SpectrumData(
        bin_edges,
        shares.mean(axis=0) / width,
        spread / width,
        max(0.0, 1.0 - float(shares.mean(axis=0).sum()) - (0.0 if math.isnan(zeros) else zeros)),
        zeros,
        largest,
        *_predicted(prediction, float(bin_edges[0])),
        min(spectrum.num_inputs, spectrum.num_outputs),
        len(spectrum.singular_values),
    )


def plot_spectrum(data: SpectrumData, ax: Axes) -> None:
    """Draws the histogram as bars with their errors, the predicted density as a line, and the predicted edge as a dashed one.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> eye = JacobianSpectrum(np.ones((1, 1, 2)), np.full((1, 1, 2), 0.5), "dense", np.zeros(1), 2, 2)
    >>> plot_spectrum(spectrum_data(eye), ax)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('singular value of the Jacobian (log scale)', 'share per decade (%)')
    """
    middles = np.sqrt(data.bin_edges[1:] * data.bin_edges[:-1])
    samples = f"{data.num_samples} samples" if data.num_samples > 1 else "1 sample"
    bars = ax.bar(
        data.bin_edges[:-1],
        100.0 * data.share_per_decade,
        np.diff(data.bin_edges),
        align="edge",
        color=_MEASURED,
        edgecolor="white",
        linewidth=0.6,
        label=f"measured: {data.num_singular_values} values × {samples}",
    )
    if np.isfinite(data.error).all():
        heights, errors = 100.0 * data.share_per_decade, 100.0 * data.error
        ax.errorbar(middles, heights, errors, fmt="none", ecolor="#444444", elinewidth=0.8)
    label = f"largest measured {data.largest:.3g}"
    ax.plot([data.largest], [0.0], marker="^", color="black", clip_on=False, linestyle="none", label=label)
    _draw_prediction(data, ax)
    _decorate(data, ax, bars)


def _draw_prediction(data: SpectrumData, ax: Axes) -> None:
    if len(data.predicted_values):
        heights = 100.0 * data.predicted_per_decade
        ax.plot(data.predicted_values, heights, color=_PREDICTED, linewidth=1.8, label="predicted density")
    if math.isfinite(data.predicted_edge):
        label = f"predicted edge {data.predicted_edge:.3g}"
        ax.axvline(data.predicted_edge, color=_PREDICTED, linestyle="--", linewidth=1.4, label=label)


def _decorate(data: SpectrumData, ax: Axes, bars: BarContainer) -> None:
    ax.set_xscale("log")
    ax.set_xlim(data.bin_edges[0], data.bin_edges[-1])
    ax.set_ylim(0.0, 1.45 * _tallest(data))
    ax.set_xlabel("singular value of the Jacobian (log scale)")
    ax.set_ylabel("share per decade (%)")
    ax.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    lines = [handle for handle in ax.get_legend_handles_labels()[0] if handle is not bars]
    ax.legend(
        handles=[bars, *lines],
        loc="upper left",
        frameon=False,
        fontsize="small",
        title=_what_is_not_shown(data),
        title_fontsize="small",
        alignment="left",
    )


def _tallest(data: SpectrumData) -> float:
    """In percent: the bars', and the line's but for poles of it, of which the bars show the average."""
    tallest_bar = float(data.share_per_decade.max())
    tallest_line = float(data.predicted_per_decade.max(initial=0.0))
    return 100.0 * max(tallest_bar, min(tallest_line, 1.3 * tallest_bar))


def _what_is_not_shown(data: SpectrumData) -> str | None:
    parts = []
    if data.share_at_zero > 0.0:
        parts.append(f"0 or rounding: {data.share_at_zero:.0%}")
    if data.share_below > 0.005:
        parts.append(f"further left{' or 0' if math.isnan(data.share_at_zero) else ''}: {data.share_below:.0%}")
    if data.predicted_at_zero > 0.0:
        parts.append(f"predicted at 0: {data.predicted_at_zero:.0%}")
    return "; ".join(parts) or None


def _groups(spectrum: JacobianSpectrum) -> list[tuple[Array, Array]]:
    """What is averaged over, each a list of values with weights that sum to 1: samples, or probes where there is one sample."""
    positive = np.where(spectrum.singular_values > spectrum.zero_below[:, None, None], spectrum.weights, 0.0)
    pairs = list(zip(spectrum.singular_values, positive, strict=True))
    if len(pairs) > 1:
        probes = spectrum.weights.shape[1]
        return [(values.ravel(), weights.ravel() / probes) for values, weights in pairs]
    return list(zip(*pairs[0], strict=True))


def _histogram(values: Array, weights: Array, bin_edges: Array) -> Array:
    return np.histogram(values, bin_edges, weights=weights)[0]


def _predicted(prediction: SpectralDensity | None, lowest: float) -> tuple[Array, Array, float, float]:
    if prediction is None:
        return np.empty(0), np.empty(0), math.nan, math.nan
    shown = prediction.singular_values >= lowest
    return (
        prediction.singular_values[shown],
        prediction.per_decade[shown],
        math.sqrt(prediction.edge),
        prediction.share_at_zero,
    )
