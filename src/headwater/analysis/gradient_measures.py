"""Four measures of what arrives at the first layers: a gain with its rate, elasticity, reach, and signal over noise.

No single number tells whether a gradient vanishes: the gain changes when a layer is rescaled, the elasticity is blind where forward
and backward decay cancel, the reach is the optimiser's affair, and noise drowns a gradient of any size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from headwater.analysis.causes import Cause
from headwater.analysis.gain import cotangent_signals
from headwater.analysis.gradient_noise import gradient_noise, total_noise
from headwater.analysis.gradient_path import Layer, headwaters, median_decades, rate_decades_per_layer
from headwater.analysis.layer_steps import layer_steps
from headwater.analysis.waterfall import waterfall
from headwater.recording import Recording, SignalKind, merged_stats

_LEAST_STEPS = 4  # from layer to layer, for an interval
_CONFIDENCE = 0.95
_SCALES = (Cause.OTHER, Cause.RESHAPING)


@dataclass(frozen=True, slots=True)
class GradientMeasures:
    """What arrives at the first layers, in four ways.

    Args:
        rate_decades_per_layer: slope of the gain over the layers, towards the input; nan with fewer than two layers.
        rate_low, rate_high: its 95 % confidence interval; nan with fewer than five layers.
        scale_fall_decades: the most that one operation loses which is no weight, activation, norm, attention or merge (a product with
            a constant); at most 0.
        scale_rise_decades: the most that one such operation gains; at least 0.
        forward_growth_decades: log10 of the forward signal's RMS at the last hidden layer over that at the first; 0 with fewer than two.
        elasticity_decades: log10 of gain times norm(h_l) / norm(h_L), the median over the first layers: the relative change of the
            output for a relative change of the activation, which no rescaling of layers changes; nan where it is not known.
        unchanged_share: of the first layers' weights with a gradient, those that the optimiser's next step leaves as they are, in
            their dtype; nan where no step was observed.
        signal_to_noise: of the batch's gradient of the first layers' weights, in energy; nan where no samples were looked at.
        last_signal_to_noise: the same of the last layer, whose gradient has not come through the network.
    """

    rate_decades_per_layer: float
    rate_low: float
    rate_high: float
    scale_fall_decades: float
    scale_rise_decades: float
    forward_growth_decades: float
    elasticity_decades: float
    unchanged_share: float
    signal_to_noise: float
    last_signal_to_noise: float

    def is_a_mere_scale(self, change_decades: float, bound_decades: float) -> bool:
        """Whether a loss (negative) or growth is that of one place where numbers are rescaled, and not of the network.

        It is where without that place there is less than the bound, and the relative effect of the first layers on the output is
        within it too: muP's output multiplier, a network that divides by 255 inside. Weights that are too small or too large are no
        such place, nor are activations and norms.

        Args:
            change_decades: between the output and the first layers.
            bound_decades: what counts as a change.
        """
        if change_decades < 0.0:
            return self.scale_fall_decades - change_decades < bound_decades and self.elasticity_decades > -bound_decades
        return change_decades - self.scale_rise_decades < bound_decades and self.elasticity_decades < bound_decades


def gradient_measures(recording: Recording, layers: Sequence[Layer]) -> GradientMeasures:
    """The measures of a recording's trainable layers.

    The elasticity is the gradient scale coefficient of Philipp et al. 2017 (arXiv 1712.05577) for one gradient.

    >>> from headwater.recording import RecordingBuilder
    >>> gradient_measures(RecordingBuilder().build(), ()).unchanged_share
    nan
    """
    first = headwaters(layers)
    return GradientMeasures(
        rate_decades_per_layer(layers),
        *rate_interval(layers),
        *_scale_steps(recording),
        forward_growth_decades(recording, layers),
        median_decades(_elasticities(recording, first)),
        _unchanged_share(recording, first),
        _signal_to_noise(recording, first),
        _signal_to_noise(recording, layers[-1:]),
    )


def rate_interval(layers: Sequence[Layer]) -> tuple[float, float]:
    """95 % confidence interval of `rate_decades_per_layer`; nan and nan with fewer than five layers that get a gradient.

    In mean-field theory the gain makes independent steps d_j from layer to layer: a random walk with a drift. Over n layers the
    least-squares slope is their mean with the weights c_j = 6 j (n - j) / (n (n² - 1)), so its variance is that of a step times
    sum c_j². Student's t with n - 2 degrees of freedom.

    >>> rate_interval(())
    (nan, nan)
    """
    gains = np.array([layer.gain_decades for layer in layers if math.isfinite(layer.gain_decades)])
    num_steps = len(gains) - 1
    if num_steps < _LEAST_STEPS:
        return math.nan, math.nan
    steps = gains[:-1] - gains[1:]
    position, num_layers = np.arange(1, num_steps + 1), num_steps + 1
    weights = 6.0 * position * (num_layers - position) / (num_layers * (num_layers**2 - 1.0))
    rate = float(weights @ steps)
    variance = float(((steps - steps.mean()) ** 2).sum() / (num_steps - 1))
    half = _student_quantile(num_steps - 1) * math.sqrt(variance * float((weights**2).sum()))
    return rate - half, rate + half


def forward_growth_decades(recording: Recording, layers: Sequence[Layer]) -> float:
    """log10 of the forward signal's RMS at the last hidden layer over that at the first; 0 with fewer than two.

    By the larger one of what a layer reads and what it makes: a branch may start small.

    >>> from headwater.recording import RecordingBuilder
    >>> forward_growth_decades(RecordingBuilder().build(), ())
    0.0
    """
    sizes: list[float] = []
    hidden = layers[:-1]
    for layer in (hidden[0], hidden[-1]) if len(hidden) > 1 else ():
        stats = [recording.signal(kind, layer.call.depth) for kind in (SignalKind.INPUT, SignalKind.ACTIVATION)]
        sizes.append(max((s.rms for s in stats if s is not None and s.finite_count), default=0.0))
    if len(sizes) < 2 or not all(0.0 < size < math.inf for size in sizes):
        return 0.0
    return math.log10(sizes[1]) - math.log10(sizes[0])


def _scale_steps(recording: Recording) -> tuple[float, float]:
    steps = [
        step.decades for step in waterfall(recording).steps if step.cause in _SCALES and math.isfinite(step.decades)
    ]
    return min([0.0, *steps]), max([0.0, *steps])


def _student_quantile(degrees: int) -> float:
    """Of Student's t, two-sided, to 1 % from three degrees of freedom on (Abramowitz & Stegun 1964, 26.7.5)."""
    z = NormalDist().inv_cdf(0.5 + 0.5 * _CONFIDENCE)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _elasticities(recording: Recording, layers: Sequence[Layer]) -> list[float]:
    signals = {(signal.depth, signal.tensor) for signal in cotangent_signals(recording)}
    output = merged_stats(
        signal.stats
        for depth in {depth for depth, _ in signals}
        for signal in recording.select(SignalKind.ACTIVATION, depth=depth)
        if (depth, signal.tensor) in signals
    )
    found: list[float] = []
    for layer in layers:
        made = recording.signal(SignalKind.ACTIVATION, layer.call.depth) if layer.operation is None else None
        if output is not None and made is not None and 0.0 < output.norm < math.inf and 0.0 < made.norm < math.inf:
            found.append(layer.gain_decades + math.log10(made.norm) - math.log10(output.norm))
    return found


def _unchanged_share(recording: Recording, layers: Sequence[Layer]) -> float:
    modules = {layer.call.module for layer in layers if layer.operation is None}
    counts = [step.counts for step in layer_steps(recording) if step.parameter.module in modules]
    num_all = math.fsum(sum(count.get("num_with_gradient", ())) for count in counts)
    num_unchanged = math.fsum(sum(count.get("num_unchanged", ())) for count in counts)
    return num_unchanged / num_all if num_all else math.nan


def _signal_to_noise(recording: Recording, layers: Sequence[Layer]) -> float:
    modules = {layer.call.module for layer in layers if layer.operation is None}
    total = total_noise(part for part in gradient_noise(recording) if part.module in modules)
    return math.nan if total is None else total.signal_to_noise
