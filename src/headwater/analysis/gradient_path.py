"""The way of the gradient from the output to the first trainable layers, and what it loses on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from headwater.analysis.gain import backward_gain, cotangent, decades, norm_ratio
from headwater.analysis.parametrizations import is_leaf, layer_of
from headwater.analysis.streams import stream_decades
from headwater.analysis.time_loops import time_loops
from headwater.recording import Call, Recording, SignalKind, computed_once, merged_stats

# Share of a tensor's gradient that its reader must bring for the tensor to have no other way to the output.
_WHOLE = 0.9
# Norms before and after an activation function of a healthy main path differ by less than this factor.
_NEIGHBOURHOOD = 1.5
_ROUNDING_DECADES = 1e-6


@dataclass(frozen=True, slots=True)
class Layer:
    """One call of a module that owns trainable parameters, and how much gradient reaches it.

    Args:
        call: the call; the first of them, where several passes were recorded.
        gain_decades: log10 of norm(activation gradient) / norm(cotangent); -inf for an exactly zero one.
        gradient_norm: norm of the activation gradient.
        stream_decades: the largest log10 of norm(input gradient) / norm(cotangent) of the calls that the layer is
            nested in: what flows around it, as through a shortcut whose branch is scaled down; -inf without any.
        operation: of a layer of functional code (`x @ self.weight`), the index of the operation that is it; the call is the one
            around it.
    """

    call: Call
    gain_decades: float
    gradient_norm: float
    stream_decades: float = -math.inf
    operation: int | None = None

    @property
    def reach_decades(self) -> float:
        """The gain to the layer, or to the input of a block around it if that is larger.

        >>> Layer(Call("0", "Linear", 0, 0, -1, True, True, True, True, True), -6.0, 1e-6, -0.1).reach_decades
        -0.1
        """
        return max(self.gain_decades, self.stream_decades)


@computed_once
def leaf_calls(recording: Recording) -> Sequence[Call]:
    """The calls that called no other observed module, but to compute their weights, in execution order.

    >>> from headwater.recording import RecordingBuilder
    >>> leaf_calls(RecordingBuilder().build())
    ()
    """
    return tuple(call for call in recording.calls if is_leaf(recording, call))


@computed_once
def trainable_layers(recording: Recording) -> Sequence[Layer]:
    """The leaf calls with parameters to train where an activation gradient arrived, in execution order.

    A reused module is a layer for each time it runs in one pass; but one that runs once per time step is one layer, whose
    gradient is that of all steps together: time is not depth. Where several passes were recorded, it is that of all passes.

    >>> from headwater.recording import RecordingBuilder
    >>> trainable_layers(RecordingBuilder().build())
    ()
    """
    owners = _modules_that_train(recording)
    reference = cotangent(recording)
    streams = [around for around, _ in stream_decades(recording)]
    per_step = {module for loop in time_loops(recording) for module in loop.per_step}
    runs: dict[tuple[str, int], list[Call]] = {}
    for call, number in zip(recording.calls, _numbers_within_pass(recording), strict=True):
        if call.module in owners and is_leaf(recording, call):
            runs.setdefault((call.module, 0 if call.module in per_step else number), []).append(call)
    layers: list[Layer] = []
    for calls in runs.values():
        measured = (recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth) for call in calls)
        gradient = merged_stats(stats for stats in measured if stats is not None)
        if gradient is not None and gradient.finite_count:
            gain = decades(norm_ratio(gradient, reference))
            layers.append(Layer(calls[0], gain, gradient.norm, max(streams[call.depth] for call in calls)))
    return tuple(layers)


def headwaters(layers: Sequence[Layer]) -> Sequence[Layer]:
    """The earliest tenth of the layers whose gradient is not exactly zero, at least one: where it has to reach.

    >>> headwaters([])
    []
    """
    reached = [layer for layer in layers if math.isfinite(layer.gain_decades)]
    return reached[: max(1, len(reached) // 10)]


def median_decades(gains: Iterable[float]) -> float:
    """The median, the lower one of an even number; nan of nothing.

    >>> median_decades([-1.0, -3.0, -9.0])
    -3.0
    """
    ordered = sorted(gains)
    return ordered[(len(ordered) - 1) // 2] if ordered else math.nan


def rate_decades_per_layer(layers: Sequence[Layer]) -> float:
    """Least-squares slope of the gain over the layers, from the output backwards; nan with fewer than two finite ones.

    >>> rate_decades_per_layer([])
    nan
    """
    gains = [(index, layer.gain_decades) for index, layer in enumerate(layers) if math.isfinite(layer.gain_decades)]
    if len(gains) < 2:
        return math.nan
    positions, values = np.array(gains).T
    positions = positions - positions.mean()
    return float(-(positions @ (values - values.mean())) / (positions @ positions))


def pooling_decades(recording: Recording) -> float:
    """What calls without parameters that shrink their input cost by geometry alone: at most zero, in decades.

    Averaging P positions divides the norm of the gradient by sqrt(P), since each gets 1/P of it; the weights before it
    sum over P positions and get it back. Counted per call, never more than the call really lost, and only where the
    gradient has no way around the call (in a squeeze-and-excitation block it has).

    >>> from headwater.recording import RecordingBuilder
    >>> pooling_decades(RecordingBuilder().build())
    0.0
    """
    owners = {layer_of(parameter.module) for parameter in recording.parameters}
    whole = {signal.tensor: signal.stats.norm for signal in recording.select(SignalKind.ACTIVATION_GRADIENT)}
    total, before = 0.0, math.nan
    for call in leaf_calls(recording):
        if call.module not in owners:
            geometry = _geometry_decades(recording, call)
            lost = decades(backward_gain(recording, call.depth)) if geometry < 0.0 else 0.0
            if math.isfinite(lost) and lost < 0.0 and _is_the_only_way(recording, call, whole, before):
                total += max(lost, geometry)
        gradient = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
        before = before if gradient is None else gradient.norm
    return total


@dataclass(frozen=True, slots=True)
class Share:
    """What the calls of one type of module do to the gradient.

    Args:
        module_type: class name; "" stands for the operations between the modules.
        num_calls: how many leaf calls of it had a gain; how many gaps between calls for "".
        decades: the sum of the log10 of their backward gains.
    """

    module_type: str
    num_calls: int
    decades: float


def decades_by_module_type(recording: Recording, *, after: int = -1) -> list[Share]:
    """What each type of leaf module costs (negative) or adds, the largest loss first.

    Where the leaf calls form a chain, the operations between them have a share too, and all shares add up to the gain
    from the output to the call at depth `after`.

    >>> from headwater.recording import RecordingBuilder
    >>> decades_by_module_type(RecordingBuilder().build())
    []
    """
    calls = [call for call in leaf_calls(recording) if call.depth > after and not returns_a_number(recording, call)]
    gains: dict[str, list[float]] = {}
    for call in calls:
        gain = decades(backward_gain(recording, call.depth))
        if math.isfinite(gain):
            gains.setdefault(call.module_type, []).append(gain)
    if is_chain(recording):
        start = [recording.calls[after]] if after >= 0 else []
        gains[""] = _gaps_decades(recording, [*start, *calls])
    shares = [Share(module_type, len(values), math.fsum(values)) for module_type, values in gains.items() if values]
    return sorted(shares, key=lambda share: (round(share.decades, 9), share.module_type))


def is_chain(recording: Recording) -> bool:
    """Whether each leaf call reads what the leaf call before it returned, or what operations of no module made of it.

    >>> from headwater.recording import RecordingBuilder
    >>> is_chain(RecordingBuilder().build())
    True
    """
    calls = leaf_calls(recording)
    made_by = {signal.tensor: i for i, call in enumerate(calls) for signal in _outputs(recording, call)}
    read_by: dict[int, int] = {}
    for index, call in enumerate(calls):
        inputs = {signal.tensor for signal in recording.select(SignalKind.INPUT, depth=call.depth)}
        if len(inputs) > 1:
            return False
        for tensor in inputs:
            if made_by.get(tensor, index) < index - 1 or read_by.setdefault(tensor, index) != index:
                return False
    return True


def returns_a_number(recording: Recording, call: Call) -> bool:
    """Whether a call returns one number without a shape, as a loss does: its gain is the slope of the loss.

    >>> from headwater.recording import RecordingBuilder, TensorStats
    >>> builder = RecordingBuilder()
    >>> module, depth = builder.add_module("", "MSELoss"), builder.add_call(0)
    >>> stats = TensorStats.from_values([1.0])
    >>> _ = builder.add_signal(module, SignalKind.ACTIVATION, stats, depth=depth, shape=())
    >>> recording = builder.build()
    >>> returns_a_number(recording, recording.calls[0])
    True
    """
    outputs = _outputs(recording, call)
    return bool(outputs) and not any(signal.shape for signal in outputs)


def _outputs(recording: Recording, call: Call) -> list:
    return recording.select(SignalKind.ACTIVATION, depth=call.depth)


def _modules_that_train(recording: Recording) -> set[str]:
    """Modules that run with trainable parameters: their own, or those of a child that they read without calling it."""
    called = {call.module for call in recording.calls}
    parents = {module.name: module.parent for module in recording.modules}
    found: set[str] = set()
    for parameter in recording.parameters:
        module: str | None = layer_of(parameter.module)
        while module is not None and module not in called:
            module = parents.get(module)
        if parameter.requires_grad and module is not None:
            found.add(module)
    return found


def _numbers_within_pass(recording: Recording) -> list[int]:
    """For each call, the how many-th run of its module it is within its top-level call."""
    tops: list[int] = []
    seen: dict[tuple[int, str], int] = {}
    numbers: list[int] = []
    for call in recording.calls:
        tops.append(call.depth if call.parent < 0 else tops[call.parent])
        key = (tops[-1], call.module)
        numbers.append(seen.get(key, 0))
        seen[key] = numbers[-1] + 1
    return numbers


def _geometry_decades(recording: Recording, call: Call) -> float:
    source = recording.signal(SignalKind.INPUT, call.depth)
    output = recording.signal(SignalKind.ACTIVATION, call.depth)
    if source is None or output is None or not 1 < output.numel < source.numel:
        return 0.0
    return 0.5 * math.log10(output.numel / source.numel)


def _is_the_only_way(recording: Recording, call: Call, whole: dict[int, float], before: float) -> bool:
    """Whether all of the gradient at the call's input comes through the call.

    Where the input was made by an operation of no module, its gradient is compared with that at the output of the
    call before, which can only be larger if it has another way.
    """
    shares = recording.select(SignalKind.INPUT_GRADIENT, depth=call.depth)
    if len(shares) != 1:
        return False
    share = shares[0].stats.norm
    known = whole.get(shares[0].tensor)
    return share >= _WHOLE * known if known is not None else not before > _NEIGHBOURHOOD * share


def _gaps_decades(recording: Recording, calls: Sequence[Call]) -> list[float]:
    """log10 of what operations of no module do after each call, until the next or the output; 0 where there are none."""
    gaps: list[float] = []
    for earlier, later in pairwise(calls):
        made = recording.signal(SignalKind.ACTIVATION_GRADIENT, earlier.depth)
        gaps.append(decades(norm_ratio(made, recording.signal(SignalKind.INPUT_GRADIENT, later.depth))))
    if calls:
        made = recording.signal(SignalKind.ACTIVATION_GRADIENT, calls[-1].depth)
        gaps.append(decades(norm_ratio(made, cotangent(recording))))
    return [gap for gap in gaps if math.isfinite(gap) and abs(gap) > _ROUNDING_DECADES]
