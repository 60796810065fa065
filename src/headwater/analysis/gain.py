"""Gains of single calls, and of the way from the output to a call."""

from __future__ import annotations

import math

from headwater.recording import Recording, Signal, SignalKind, TensorStats, merged_stats


def backward_gain(recording: Recording, depth: int) -> float:
    """norm(dL/d input) / norm(dL/d output) of one call; nan where either is unknown or the output's is zero.

    Norms, not RMS: under fan-in scaling the expectation is sqrt(chi) for any width (Schoenholz et al. 2017,
    arXiv 1611.01232). The input gradient is the call's own share where the input has other readers.
    """
    return norm_ratio(recording.signal(SignalKind.INPUT_GRADIENT, depth), activation_gradient(recording, depth))


def forward_gain(recording: Recording, depth: int) -> float:
    """RMS(output) / RMS(input) of one call; nan where either is unknown or the input is zero."""
    output, source = recording.signal(SignalKind.ACTIVATION, depth), recording.signal(SignalKind.INPUT, depth)
    if output is None or source is None or not source.rms > 0.0:
        return math.nan
    return output.rms / source.rms


def activation_gradient(recording: Recording, depth: int) -> TensorStats | None:
    """The gradient at the output of one call; None where none was measured.

    Of a call that returns its loss beside other tensors, the loss' own gradient, one, is left out.
    """
    parts = [signal.stats for signal in recording.select(SignalKind.ACTIVATION_GRADIENT, depth=depth)]
    return merged_stats([stats for stats in parts if stats.numel > 1] or parts)


def cotangent(recording: Recording) -> TensorStats | None:
    """The gradient at the model's output, which every gain is relative to; None where no backward pass was seen.

    It is that of all tensors the model returned. A single number among larger tensors, or without a shape, is taken to
    be the loss, whose gradient is one: it counts only where nothing else has one. (The output of one unit for a batch of
    one has a shape, (1, 1).) A model that returns nothing but its loss, or that was never called as a whole, is judged
    from its last leaf call.
    """
    at_output = [
        signal
        for depth in recording.children(-1)
        for signal in recording.select(SignalKind.ACTIVATION_GRADIENT, depth=depth)
        if signal.module == ""
    ]
    found = (
        [signal for signal in at_output if signal.stats.numel > 1]
        or [signal for signal in at_output if signal.shape]
        or _last_leaf_gradients(recording)
        or at_output
    )
    return merged_stats([signal.stats for signal in found])


def gain_from_output_decades(recording: Recording, depth: int) -> float:
    """log10 of norm(activation gradient at a call) / norm(cotangent); -inf for a zero gradient, nan if unknown."""
    return decades(norm_ratio(activation_gradient(recording, depth), cotangent(recording)))


def decades(ratio: float) -> float:
    """log10 of a ratio; -inf for zero, nan for nan.

    >>> decades(100.0), decades(0.0)
    (2.0, -inf)
    """
    return -math.inf if ratio == 0.0 else math.log10(ratio)


def norm_ratio(numerator: TensorStats | None, denominator: TensorStats | None) -> float:
    """Ratio of two norms; nan where one is unknown or the denominator is zero or infinite.

    >>> norm_ratio(TensorStats.from_values([1.0]), TensorStats.from_values([3.0, 4.0]))
    0.2
    """
    if numerator is None or denominator is None or not 0.0 < denominator.norm < math.inf:
        return math.nan
    return numerator.norm / denominator.norm


def _last_leaf_gradients(recording: Recording) -> list[Signal]:
    for call in reversed(recording.calls):
        if not recording.children(call.depth):
            signals = recording.select(SignalKind.ACTIVATION_GRADIENT, depth=call.depth)
            found = [signal for signal in signals if signal.shape]
            if found:
                return found
    return []
