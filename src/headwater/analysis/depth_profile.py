"""One row per call in execution order: what the signal and the gradient do on their way through the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.analysis.gain import activation_gradient, backward_gain, cotangent, decades, forward_gain, norm_ratio
from headwater.recording import Recording, SignalKind, TensorStats, merged_stats


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One call. A number that was not measured is None.

    Args:
        depth: position in execution order.
        module: path in `named_modules()`.
        module_type: class name.
        call: n-th run of the module.
        level: how many calls it is nested in.
        is_leaf: it called no other observed module.
        has_weights: its module owns parameters itself.
        trains: its module owns a parameter that requires a gradient.
        shape: of its first output.
        activation: statistics of its outputs.
        activation_gradient: statistics of dL/d output.
        gain_decades: log10 of norm(activation gradient) / norm(cotangent); -inf for an exactly zero gradient.
        backward_gain: norm(dL/d input) / norm(dL/d output).
        forward_gain: RMS(output) / RMS(input).
        weight_gradient: statistics of the gradients of its own parameters together.
        weight_gradient_mean_abs: mean absolute gradient of its "weight" (of all its parameters, if it has none): the
            notebook's number.
    """

    depth: int
    module: str
    module_type: str
    call: int
    level: int
    is_leaf: bool
    has_weights: bool
    trains: bool
    shape: tuple[int, ...] | None
    activation: TensorStats | None
    activation_gradient: TensorStats | None
    gain_decades: float | None
    backward_gain: float | None
    forward_gain: float | None
    weight_gradient: TensorStats | None
    weight_gradient_mean_abs: float | None


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """The rows of a recording, and what they are relative to.

    Args:
        rows: in execution order, a caller before what it calls.
        cotangent: the gradient at the model's output.
    """

    rows: tuple[ProfileRow, ...]
    cotangent: TensorStats | None


def depth_profile(recording: Recording) -> DepthProfile:
    """The profile of a recording, in time linear in its calls.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> root, depth = builder.add_module("", "Tanh"), builder.add_call(0)
    >>> [(row.module_type, row.level, row.gain_decades) for row in depth_profile(builder.build()).rows]
    [('Tanh', 0, None)]
    """
    reference = cotangent(recording)
    owners = {parameter.module for parameter in recording.parameters}
    trainable = {parameter.module for parameter in recording.parameters if parameter.requires_grad}
    levels: list[int] = []
    rows: list[ProfileRow] = []
    for call in recording.calls:
        levels.append(levels[call.parent] + 1 if call.parent >= 0 else 0)
        outputs = recording.select(SignalKind.ACTIVATION, depth=call.depth)
        gradient = activation_gradient(recording, call.depth)
        weights = recording.select(SignalKind.WEIGHT_GRADIENT, depth=call.depth) if call.module in owners else []
        weight_gradient = merged_stats([signal.stats for signal in weights])
        named_weight = [signal.stats for signal in weights if signal.item == "weight"]
        rows.append(
            ProfileRow(
                depth=call.depth,
                module=call.module,
                module_type=call.module_type,
                call=call.call,
                level=levels[-1],
                is_leaf=not recording.children(call.depth),
                has_weights=call.module in owners,
                trains=call.module in trainable,
                shape=outputs[0].shape if outputs else None,
                activation=merged_stats([signal.stats for signal in outputs]),
                activation_gradient=gradient,
                gain_decades=_known(decades(norm_ratio(gradient, reference))),
                backward_gain=_known(backward_gain(recording, call.depth)),
                forward_gain=_known(forward_gain(recording, call.depth)),
                weight_gradient=weight_gradient,
                weight_gradient_mean_abs=_mean_abs(named_weight[0] if named_weight else weight_gradient),
            )
        )
    return DepthProfile(tuple(rows), reference)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean_abs(stats: TensorStats | None) -> float | None:
    return None if stats is None else _known(stats.mean_abs)
