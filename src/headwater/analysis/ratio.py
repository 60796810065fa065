"""Why a layer's weight gradient differs between two recordings: the exact factors of the ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.analysis.gain import cotangent
from headwater.recording import Recording, Signal, SignalKind, TensorStats


@dataclass(frozen=True, slots=True)
class RatioFactors:
    """One layer's mean absolute weight gradient in one recording over that in another, and its factors.

    The weight gradient of a linear layer is a sum over samples of the outer product of delta (the gradient at its output)
    and h (its input). For one sample mean|dL/dW| = mean|delta| · mean|h| exactly, so that

        ratio = loss_slope × backward_gain × forward_signal × alignment

    holds exactly, with an alignment of one for a single sample.

    Args:
        parameter: full name.
        ratio: of the mean absolute weight gradients.
        loss_slope: of the mean absolute cotangents: what a steeper loss at the output does.
        backward_gain: of mean|delta| / mean|cotangent|: what the way from the output to the layer does.
        forward_signal: of the mean absolute inputs of the layer.
        alignment: the rest: how the samples' contributions add up or cancel.
    """

    parameter: str
    ratio: float
    loss_slope: float
    backward_gain: float
    forward_signal: float
    alignment: float

    @property
    def architecture(self) -> float:
        """The ratio without the loss slope: what is really due to the networks.

        >>> RatioFactors("weight", ratio=12.0, loss_slope=4.0, backward_gain=1.0, forward_signal=3.0, alignment=1.0).architecture
        3.0
        """
        return self.ratio / self.loss_slope


@dataclass(frozen=True, slots=True)
class GradientParts:
    """What one layer's mean absolute weight gradient is made of; nan for what was not recorded or is not finite.

    Args:
        weight_gradient: mean absolute dL/dW.
        cotangent: mean absolute gradient at the model's output.
        delta: mean absolute gradient at the layer's output.
        signal: mean absolute input of the layer.
    """

    weight_gradient: float
    cotangent: float
    delta: float
    signal: float


def gradient_parts(recording: Recording, parameter: str, depth: int | None = None) -> GradientParts:
    """The parts of a parameter's mean absolute gradient.

    Args:
        recording: of one backward pass.
        parameter: full name.
        depth: of the call of its module, where there are several; None for the first.

    Raises:
        ValueError: the recording holds no gradient of the parameter.

    >>> from headwater.recording import RecordingBuilder
    >>> gradient_parts(RecordingBuilder().build(), "weight")
    Traceback (most recent call last):
    ValueError: the recording holds no gradient of a parameter 'weight'
    """
    gradient = _gradient_of(recording, parameter)
    depth = gradient.depth if depth is None else depth
    return GradientParts(
        _mean_abs(gradient.stats),
        _mean_abs(cotangent(recording)),
        _mean_abs(recording.signal(SignalKind.ACTIVATION_GRADIENT, depth)),
        _mean_abs(recording.signal(SignalKind.INPUT, depth)),
    )


def ratio_factors(numerator: Recording, denominator: Recording, parameter: str) -> RatioFactors:
    """The factors of a parameter's mean absolute gradient in one recording over that in the other.

    Raises:
        ValueError: a recording lacks the parameter's gradient, its layer's input or gradient, or the cotangent; or one of
            them is zero.

    >>> from headwater.recording import RecordingBuilder
    >>> def one_layer(slope, signal):
    ...     builder = RecordingBuilder()
    ...     root, depth = builder.add_module("", "Linear"), builder.add_call(0)
    ...     for kind, value in (
    ...         (SignalKind.INPUT, signal),
    ...         (SignalKind.ACTIVATION_GRADIENT, slope),
    ...         (SignalKind.WEIGHT_GRADIENT, slope * signal),
    ...     ):
    ...         item = "weight" if kind is SignalKind.WEIGHT_GRADIENT else ""
    ...         _ = builder.add_signal(root, kind, TensorStats.from_values([value]), depth=depth, item=item, shape=(1, 1))
    ...     return builder.build()
    >>> factors = ratio_factors(one_layer(8.0, 3.0), one_layer(2.0, 1.0), "weight")
    >>> factors.ratio, factors.loss_slope, factors.backward_gain, factors.forward_signal, factors.alignment
    (12.0, 4.0, 1.0, 3.0, 1.0)
    """
    above, below = (_positive_parts(recording, parameter) for recording in (numerator, denominator))
    ratio = above.weight_gradient / below.weight_gradient
    loss_slope = above.cotangent / below.cotangent
    backward_gain = (above.delta / above.cotangent) / (below.delta / below.cotangent)
    forward_signal = above.signal / below.signal
    alignment = ratio / (loss_slope * backward_gain * forward_signal)
    return RatioFactors(parameter, ratio, loss_slope, backward_gain, forward_signal, alignment)


def _gradient_of(recording: Recording, parameter: str) -> Signal:
    signals = recording.select(SignalKind.WEIGHT_GRADIENT, module=parameter.rpartition(".")[0])
    gradient = next((signal for signal in signals if signal.parameter == parameter), None)
    if gradient is None:
        raise ValueError(f"the recording holds no gradient of a parameter '{parameter}'")
    return gradient


def _mean_abs(stats: TensorStats | None) -> float:
    return math.nan if stats is None or stats.nonfinite_count else stats.mean_abs


def _positive_parts(recording: Recording, parameter: str) -> GradientParts:
    gradient = _gradient_of(recording, parameter)
    _check_positive(gradient.stats, f"the gradient of '{parameter}'")
    _check_positive(cotangent(recording), "the gradient at the model's output")
    delta = recording.signal(SignalKind.ACTIVATION_GRADIENT, gradient.depth)
    _check_positive(delta, f"the gradient at the output of '{gradient.module}'")
    _check_positive(recording.signal(SignalKind.INPUT, gradient.depth), f"the input of '{gradient.module}'")
    return gradient_parts(recording, parameter)


def _check_positive(stats: TensorStats | None, what: str) -> None:
    if not 0.0 < _mean_abs(stats) < math.inf:
        found = "was not recorded" if stats is None else f"has a mean absolute value of {_mean_abs(stats)}"
        raise ValueError(f"a ratio has factors only where every part is positive and finite, but {what} {found}")
