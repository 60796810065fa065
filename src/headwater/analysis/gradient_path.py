"""The way of the gradient from the output to the first trainable layers, and what it loses on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.analysis.gain import backward_gain, cotangent, decades, norm_ratio
from headwater.recording import Call, Recording, SignalKind


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a module that owns trainable parameters, and how much gradient reaches its output.

    Args:
        call: the call.
        gain_decades: log10 of norm(activation gradient) / norm(cotangent); -inf for an exactly zero one.
        gradient_norm: norm of the activation gradient.
    """

    call: Call
    gain_decades: float
    gradient_norm: float


def trainable_layers(recording: Recording) -> list[Layer]:
    """The calls, in execution order, of modules that own a parameter to train, where an activation gradient arrived."""
    owners = {parameter.module for parameter in recording.parameters if parameter.requires_grad}
    reference = cotangent(recording)
    layers: list[Layer] = []
    for call in recording.calls:
        if call.module not in owners:
            continue
        gradient = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
        if gradient is not None:
            layers.append(Layer(call, decades(norm_ratio(gradient, reference)), gradient.norm))
    return layers


def headwaters(layers: Sequence[Layer]) -> Sequence[Layer]:
    """The earliest tenth of the layers, at least one: where a gradient has to reach."""
    return layers[: max(1, len(layers) // 10)]


def headwaters_gain_decades(layers: Sequence[Layer]) -> float:
    """Median gain from the output to the headwaters; nan where there are no layers or none is known."""
    known = sorted(layer.gain_decades for layer in headwaters(layers) if not math.isnan(layer.gain_decades))
    return known[len(known) // 2] if known else math.nan


def rate_decades_per_layer(layers: Sequence[Layer]) -> float:
    """Least-squares slope of the gain over the layers, from the output backwards; nan with fewer than two finite ones."""
    gains = [(index, layer.gain_decades) for index, layer in enumerate(layers) if math.isfinite(layer.gain_decades)]
    if len(gains) < 2:
        return math.nan
    positions, values = np.array(gains).T
    return float(-np.polyfit(positions, values, 1)[0])


def leaf_calls(recording: Recording) -> list[Call]:
    """The calls that called no other observed module, in execution order."""
    return [call for call in recording.calls if not recording.children(call.depth)]


def pooling_decades(recording: Recording) -> float:
    """What parameter-free calls that shrink their input cost by geometry alone: at most zero, in decades.

    Averaging P positions divides the norm of the gradient by sqrt(P), since each gets 1/P of it; the weights before it sum
    over P positions and get it back. Counted per call, and never more than the call really lost.
    """
    owners = {parameter.module for parameter in recording.parameters}
    total = 0.0
    for call in leaf_calls(recording):
        if call.module in owners:
            continue
        source = recording.signal(SignalKind.INPUT, call.depth)
        output = recording.signal(SignalKind.ACTIVATION, call.depth)
        if source is None or output is None or not 0 < output.numel < source.numel:
            continue
        lost = decades(backward_gain(recording, call.depth))
        if math.isfinite(lost) and lost < 0.0:
            total += max(lost, 0.5 * math.log10(output.numel / source.numel))
    return total


@dataclass(frozen=True, slots=True)
class Share:
    """What the calls of one type of module do to the gradient.

    Args:
        module_type: class name.
        num_calls: how many leaf calls of it had a gain.
        decades: the sum of the log10 of their backward gains.
    """

    module_type: str
    num_calls: int
    decades: float


def decades_by_module_type(recording: Recording) -> list[Share]:
    """What each type of leaf module costs (negative) or adds, the largest loss first. Along a chain the shares add up."""
    gains: dict[str, list[float]] = {}
    for call in leaf_calls(recording):
        gain = decades(backward_gain(recording, call.depth))
        if math.isfinite(gain):
            gains.setdefault(call.module_type, []).append(gain)
    shares = [Share(module_type, len(values), math.fsum(values)) for module_type, values in gains.items()]
    return sorted(shares, key=lambda share: share.decades)


def is_chain(recording: Recording) -> bool:
    """Whether every leaf call reads what the leaf call before it returned, and nothing else."""
    calls = leaf_calls(recording)
    outputs = [_tensors(recording, call, SignalKind.ACTIVATION) for call in calls]
    inputs = [_tensors(recording, call, SignalKind.INPUT) for call in calls]
    return all(read == made and len(read) == 1 for made, read in zip(outputs, inputs[1:], strict=False))


def _tensors(recording: Recording, call: Call, kind: SignalKind) -> set[int]:
    return {signal.tensor for signal in recording.select(kind, depth=call.depth)}
