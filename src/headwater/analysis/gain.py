"""Gains of single calls, and of the way from the output to a call."""

from __future__ import annotations

import math

import numpy as np

from headwater.recording import Recording, Signal, SignalKind, TensorStats, computed_once, merged_stats
from headwater.recording.recording import KINDS


def backward_gain(recording: Recording, depth: int) -> float:
    """norm(dL/d input) / norm(dL/d output) of one call; nan where either is unknown or the output's is zero.

    Norms, not RMS: under fan-in scaling the expectation is sqrt(chi) for any width (Schoenholz et al. 2017,
    arXiv 1611.01232). The input gradient is the call's own share where the input has other readers.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> module, depth = builder.add_module("", "Tanh"), builder.add_call(0)
    >>> for kind, value in ((SignalKind.ACTIVATION_GRADIENT, 4.0), (SignalKind.INPUT_GRADIENT, 1.0)):
    ...     _ = builder.add_signal(module, kind, TensorStats.from_values([value]), depth=depth)
    >>> backward_gain(builder.build(), depth)
    0.25
    """
    return norm_ratio(recording.signal(SignalKind.INPUT_GRADIENT, depth), activation_gradient(recording, depth))


def forward_gain(recording: Recording, depth: int) -> float:
    """RMS(output) / RMS(input) of one call; nan where either is unknown or the input is zero.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> module, depth = builder.add_module("", "Tanh"), builder.add_call(0)
    >>> for kind, value in ((SignalKind.INPUT, 4.0), (SignalKind.ACTIVATION, 1.0)):
    ...     _ = builder.add_signal(module, kind, TensorStats.from_values([value]), depth=depth)
    >>> forward_gain(builder.build(), depth)
    0.25
    """
    output, source = recording.signal(SignalKind.ACTIVATION, depth), recording.signal(SignalKind.INPUT, depth)
    if output is None or source is None or not source.rms > 0.0:
        return math.nan
    return output.rms / source.rms


def activation_gradient(recording: Recording, depth: int) -> TensorStats | None:
    """The gradient at the output of one call; None where none was measured.

    Of a call that returns its loss beside other tensors, the loss' own gradient, one, is left out.

    >>> from headwater.recording import RecordingBuilder
    >>> activation_gradient(RecordingBuilder().build(), 0) is None
    True
    """
    parts = [signal.stats for signal in recording.select(SignalKind.ACTIVATION_GRADIENT, depth=depth)]
    return merged_stats([stats for stats in parts if stats.numel > 1] or parts)


@computed_once
def cotangent(recording: Recording) -> TensorStats | None:
    """The gradient at the model's output, which every gain is relative to; None where no backward pass was seen.

    It is that of all tensors the model returned. A single number among larger tensors, or without a shape, is taken to
    be the loss, whose gradient is one: it counts only where nothing else has one. (The output of one unit for a batch of
    one has a shape, (1, 1).) A returned tensor that another call reads, a hidden state beside the logits, holds what
    flows back from there; under a loss it counts only where no other has a gradient. A model that returns nothing but its
    loss, or that was never called as a whole, is judged from its last leaf call, of those that get a gradient that is not zero.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> root, depth = builder.add_module("", "Linear"), builder.add_call(0)
    >>> slope = TensorStats.from_values([3.0, 4.0])
    >>> _ = builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, slope, depth=depth)
    >>> cotangent(builder.build()).norm
    5.0
    """
    return merged_stats([signal.stats for signal in cotangent_signals(recording)])


def cotangent_signals(recording: Recording) -> list[Signal]:
    """The gradients that `cotangent` is made of.

    >>> from headwater.recording import RecordingBuilder
    >>> cotangent_signals(RecordingBuilder().build())
    []
    """
    at_output = [
        signal
        for depth in recording.children(-1)
        for signal in recording.select(SignalKind.ACTIVATION_GRADIENT, depth=depth)
        if signal.module == ""
    ]
    return (
        _final(recording, [signal for signal in at_output if signal.stats.numel > 1])
        or [signal for signal in at_output if signal.shape]
        or _last_leaf_gradients(recording)
        or at_output
    )


def gain_from_output_decades(recording: Recording, depth: int) -> float:
    """log10 of norm(activation gradient at a call) / norm(cotangent); -inf for a zero gradient, nan if unknown.

    >>> from headwater.recording import RecordingBuilder
    >>> gain_from_output_decades(RecordingBuilder().build(), 0)
    nan
    """
    return decades(norm_ratio(activation_gradient(recording, depth), cotangent(recording)))


def decades(ratio: float) -> float:
    """log10 of a ratio; -inf for zero, nan for nan. To twelve digits: how a loss is scaled, and so rounded, tips no bound.

    >>> decades(100.0), decades(0.0)
    (2.0, -inf)
    """
    return -math.inf if ratio == 0.0 else round(math.log10(ratio), 12)


def norm_ratio(numerator: TensorStats | None, denominator: TensorStats | None) -> float:
    """Ratio of two norms; nan where one is unknown or the denominator is zero or infinite.

    >>> norm_ratio(TensorStats.from_values([1.0]), TensorStats.from_values([3.0, 4.0]))
    0.2
    """
    if numerator is None or denominator is None or not 0.0 < denominator.norm < math.inf:
        return math.nan
    return numerator.norm / denominator.norm


def _final(recording: Recording, outputs: list[Signal]) -> list[Signal]:
    """The outputs that no call reads, or all if there are none. Random cotangents are sent to each of them."""
    if len(outputs) < 2 or recording.context.cotangent == "random":
        return outputs
    table = recording.signal_table
    is_read = (table["kind"] == KINDS.index(SignalKind.INPUT)) & np.isin(table["tensor"], [s.tensor for s in outputs])
    read = {
        tensor
        for tensor, depth in table[is_read][["tensor", "depth"]].tolist()
        # nn.Identity returns what it reads
        if tensor not in {signal.tensor for signal in recording.select(SignalKind.ACTIVATION, depth=depth)}
    }
    return [signal for signal in outputs if signal.tensor not in read] or outputs


def _last_leaf_gradients(recording: Recording) -> list[Signal]:
    """Of the last leaf call that gets some: what the loss leaves out of this batch is not where the gradient begins."""
    last: list[Signal] = []
    for call in reversed(recording.calls):
        if not recording.children(call.depth):
            signals = recording.select(SignalKind.ACTIVATION_GRADIENT, depth=call.depth)
            found = [signal for signal in signals if signal.shape]
            if any(not signal.stats.is_zero for signal in found):
                return found
            last = last or found
    return last
