"""Where the first value that is not finite comes from, in the forward and in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headwater.analysis.dataflow import Dataflow
from headwater.recording import Call, Operation, Recording, Signal, SignalKind, TensorStats

# What makes NaN of a row that is masked with -inf throughout: the mask before it is not to blame.
_SOFTMAX_WORDS = ("softmax", "attention", "attn")
_WRITES_INFINITIES = ("fill", "where", "full", "scatter", "setitem", "mask")


@dataclass(frozen=True, slots=True)
class NonFiniteOrigin:
    """One place where values that are not finite appear.

    Args:
        depth: of the call at which they do.
        stats: of the tensor that holds them.
        is_between: an operation of the call's caller made them: before the call (forward), or behind it (backward).
        parameter: of the parameter whose gradient they are, if it is one.
    """

    depth: int
    stats: TensorStats
    is_between: bool = False
    parameter: str = ""


def forward_origin(recording: Recording, flow: Dataflow) -> NonFiniteOrigin | None:
    """The place in the forward pass where NaN, or the infinity that it is made of, comes from; None if all is finite.

    Infinities that nothing turns into NaN are the origin only where there is no NaN at all.

    >>> from headwater.analysis.dataflow import dataflow
    >>> from headwater.recording import RecordingBuilder
    >>> recording = RecordingBuilder().build()
    >>> forward_origin(recording, dataflow(recording)) is None
    True
    """
    infinity = _first_made(recording, flow, _inf_or_nan)
    nan = _first_made(recording, flow, _nan)
    if nan is None or infinity is None or nan.is_between:
        return nan or infinity
    # What stands before a call comes before what the call makes.
    if (infinity.depth, not infinity.is_between) >= (nan.depth, True):
        return nan
    call = recording.calls[nan.depth]
    source = recording.signal(SignalKind.INPUT, nan.depth)
    is_softmax = any(word in call.module_type.lower() for word in _SOFTMAX_WORDS)
    return nan if is_softmax or source is None or not _inf_or_nan(source) else infinity


def backward_origin(recording: Recording) -> NonFiniteOrigin | None:
    """The place in the backward pass, from the last call to the first, where the gradient stops being finite.

    >>> from headwater.recording import RecordingBuilder
    >>> backward_origin(RecordingBuilder().build()) is None
    True
    """
    for call in reversed(recording.calls):
        depth = call.depth
        outgoing = recording.signal(SignalKind.ACTIVATION_GRADIENT, depth)
        incoming = recording.signal(SignalKind.INPUT_GRADIENT, depth)
        is_leaf = not recording.children(depth)
        if outgoing is not None and _inf_or_nan(outgoing):
            if is_leaf:
                return NonFiniteOrigin(depth, outgoing, is_between=True)
        elif incoming is not None and _inf_or_nan(incoming):  # its children would have been found before
            return NonFiniteOrigin(depth, incoming)
    for signal in recording.select(SignalKind.WEIGHT_GRADIENT):
        if _inf_or_nan(signal.stats):
            return NonFiniteOrigin(signal.depth, signal.stats, parameter=signal.parameter)
    return None


def forward_culprit(recording: Recording, origin: NonFiniteOrigin) -> Operation | None:
    """The operation that made the values of a place in the forward pass; None where operations were not looked at.

    >>> from headwater.recording import RecordingBuilder
    >>> forward_culprit(RecordingBuilder().build(), NonFiniteOrigin(0, TensorStats(1))) is None
    True
    """
    culprits = [o for o in recording.operations if o.is_cut and not o.is_finite]
    place = recording.calls[origin.depth].parent if culprits and origin.is_between else origin.depth
    inside = [o for o in culprits if o.depth >= 0 and place in (o.depth, *_callers(recording, o.depth))]
    return inside[-1 if origin.stats.nan_count else 0] if inside else None


def loss_culprit(recording: Recording) -> Operation | None:
    """The operation in the loss that made its first values that are not finite; None where operations were not looked at.

    An infinity comes first, and NaN is made of it (the log of 0, times 0); but one that is written where a mask says so is meant, and
    blamed for nothing.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> _ = builder.add_operation("torch.log", is_finite=False, is_cut=True)
    >>> _ = builder.add_operation("torch.mul", is_finite=False, is_cut=True)
    >>> loss_culprit(builder.build()).name
    'torch.log'
    """
    culprits = [o for o in recording.operations if o.is_cut and not o.is_finite and o.depth < 0]
    made = [o for o in culprits if not any(word in o.name for word in _WRITES_INFINITIES)]
    return made[0] if made else None


def _callers(recording: Recording, depth: int) -> list[int]:
    found = [recording.calls[depth].parent]
    while found[-1] >= 0:
        found.append(recording.calls[found[-1]].parent)
    return found


def backward_culprit(recording: Recording) -> Operation | None:
    """The operation that gets a finite gradient and sends one that is not, the first on the gradient's way.

    None where operations were not recorded, or where only the gradients of parameters are not finite.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> _ = builder.add_operation("F.linear", is_finite=False), builder.add_operation("torch.sqrt")
    >>> builder.add_operation_edge(1, 0)
    >>> backward_culprit(builder.build()).name
    'torch.sqrt'
    """
    bad = [o.index for o in recording.operations if not o.is_finite and not o.is_cut]
    readers = [e.operation for e in recording.operation_edges if bad and e.producer == bad[-1]]
    return recording.operations[max(readers)] if readers else None


def _first_made(recording: Recording, flow: Dataflow, is_bad: Callable[[TensorStats], bool]) -> NonFiniteOrigin | None:
    """The first call that returns bad values but reads none, or that reads some which no call returned."""
    bad_inside = _calls_around(recording, is_bad)
    at_start = {t for depth in recording.children(-1) for t in flow.inputs[depth]}
    for call in recording.calls:
        read = [s for s in recording.select(SignalKind.INPUT, depth=call.depth) if is_bad(s.stats)]
        fresh = [s for s in read if s.tensor not in at_start and not _came_from_before(flow, s, call)]
        if fresh:
            return NonFiniteOrigin(call.depth, fresh[0].stats, is_between=True)
        made = recording.signal(SignalKind.ACTIVATION, call.depth)
        if not read and made is not None and is_bad(made) and call.depth not in bad_inside:
            return NonFiniteOrigin(call.depth, made)
    return None


def _came_from_before(flow: Dataflow, signal: Signal, call: Call) -> bool:
    produced = flow.producers.get(signal.tensor, ())
    return flow.first_reader(signal.tensor) < call.depth or any(depth < call.depth for depth in produced)


def _calls_around(recording: Recording, is_bad: Callable[[TensorStats], bool]) -> set[int]:
    """The callers of calls that read or return bad values: those are nearer to the origin."""
    found: set[int] = set()
    for call in reversed(recording.calls):
        made = recording.signal(SignalKind.ACTIVATION, call.depth)
        source = recording.signal(SignalKind.INPUT, call.depth)
        if call.depth in found or any(stats is not None and is_bad(stats) for stats in (made, source)):
            found.add(call.parent)
    return found


def _nan(stats: TensorStats) -> bool:
    return stats.nan_count > 0


def _inf_or_nan(stats: TensorStats) -> bool:
    return stats.nonfinite_count > 0
