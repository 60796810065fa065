"""From what an ensemble of seeds measured, layer by layer, to the numbers of a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.lab.paired_statistics import median_interval

Floats = NDArray[np.float64]

_LEVEL = 0.975  # both ends of 95 %


def depth_scale_layers(rate_decades_per_layer: float) -> float:
    """Xi = 1 / abs(ln chi) of a rate of the gradient's norm, log10 sqrt(chi) per layer; inf for a rate of 0.

    chi is a factor of squares, hence the 2 (Schoenholz et al. 2017, arXiv 1611.01232, section 4).

    >>> round(depth_scale_layers(0.5 * math.log10(math.exp(-0.1))), 9)
    10.0
    """
    if math.isnan(rate_decades_per_layer):
        return math.nan
    speed = 2.0 * math.log(10.0) * abs(rate_decades_per_layer)
    return math.inf if speed == 0.0 else 1.0 / speed


def depth_scale_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of xi for one of the rate; without an upper end where the rate may be 0.

    >>> [round(end, 3) for end in depth_scale_interval(-0.2, -0.1)], depth_scale_interval(-0.1, 0.1)[1]
    ([1.086, 2.171], inf)
    """
    ends = sorted(depth_scale_layers(end) for end in (low, high))
    return ends[0], math.inf if low <= 0.0 <= high else ends[1]


def rates(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Per seed, the mean step from the last layer to the first, and the ends of its 95 % interval.

    Steps of a wide random network are independent, so the interval is Student's of their mean. A layer that is not finite
    takes its two steps with it.

    Args:
        values: (seeds, layers), logarithms.

    >>> [part.round(3).tolist() for part in rates(np.array([[-3.0, -2.0, -1.0, 0.0]]))]
    [[-1.0], [-1.0], [-1.0]]
    """
    with np.errstate(invalid="ignore"):  # of infinite ones
        steps = values[:, :-1] - values[:, 1:]
    steps = np.where(np.isfinite(steps), steps, np.nan)
    count = np.isfinite(steps).sum(axis=1)
    sums = np.nansum(steps, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / count
        spread = np.sqrt(np.nansum((steps - mean[:, None]) ** 2, axis=1) / (count - 1) / count)
    half = np.array([student_quantile(int(number) - 1) for number in count]) * spread
    return np.where(count > 0, mean, np.nan), mean - half, mean + half


def median_columns(name: str, values: Sequence[float] | Floats) -> dict[str, float]:
    """The columns of a median with its interval over the seeds.

    >>> median_columns("loss", [1.0, 2.0, 3.0])
    {'loss': 2.0, 'loss_low': -inf, 'loss_high': inf}
    """
    median = median_interval(values)
    return {name: median.value, f"{name}_low": median.low, f"{name}_high": median.high}


def gain_columns(gain_decades: Floats, activation_rms: Floats, output_rms: Floats) -> dict[str, Any]:
    """The columns of gain, rate, depth scale and forward signal.

    Args:
        gain_decades: (seeds, layers), of the hidden layers.
        activation_rms: likewise.
        output_rms: (seeds,).
    """
    rate, low, high = rates(gain_decades)
    with np.errstate(divide="ignore", invalid="ignore"):
        forward = -rates(np.log10(activation_rms))[0]
    of_rate = median_columns("rate_decades_per_layer", rate)
    xi_low, xi_high = depth_scale_interval(
        of_rate["rate_decades_per_layer_low"], of_rate["rate_decades_per_layer_high"]
    )
    return {
        **median_columns("gain_decades", gain_decades[:, 0]),
        **of_rate,
        "depth_scale_layers": depth_scale_layers(of_rate["rate_decades_per_layer"]),
        "depth_scale_layers_low": xi_low,
        "depth_scale_layers_high": xi_high,
        **median_columns("forward_decades_per_layer", forward),
        **median_columns("output_rms", output_rms),
        "seed_gain_decades": gain_decades[:, 0].tolist(),
        "seed_rate_decades_per_layer": rate.tolist(),
        "seed_rate_low": low.tolist(),
        "seed_rate_high": high.tolist(),
        "seed_forward_decades_per_layer": forward.tolist(),
        "seed_output_rms": output_rms.tolist(),
    }


def student_quantile(degrees: int) -> float:
    """The upper end of Student's central 95 %; nan for no degree of freedom.

    >>> round(student_quantile(10), 3)
    2.228
    """
    if degrees < 1:
        return math.nan
    from scipy.special import stdtrit

    return float(stdtrit(degrees, _LEVEL))
