"""What flows around the layers of a block: the gradient of what the block reads, through its shortcut."""

from __future__ import annotations

import math
from bisect import bisect_right

from headwater.analysis.gain import cotangent, decades, norm_ratio
from headwater.analysis.operation_path import log_ratio
from headwater.analysis.parametrizations import is_leaf
from headwater.analysis.shortcuts import norm_past
from headwater.recording import Call, Recording, SignalKind, TensorStats

_MUCH = 10.0  # times what the branches send to a block's input, from which the rest is a shortcut's


def stream_decades(recording: Recording) -> list[tuple[float, float]]:
    """For each call, the largest gain to the input of a call that it is nested in; and the same, its own input included.

    >>> from headwater.recording import RecordingBuilder
    >>> stream_decades(RecordingBuilder().build())
    []
    """
    reference = cotangent(recording)
    found: list[tuple[float, float]] = []
    for call in recording.calls:
        around = -math.inf if call.parent < 0 else found[call.parent][1]
        own = -math.inf
        if reference is not None and not is_leaf(recording, call):
            own = _of_input(recording, call, reference)
        found.append((around, max(around, own if math.isfinite(own) else -math.inf)))
    return found


def _of_input(recording: Recording, call: Call, reference: TensorStats) -> float:
    """Decades from the cotangent to what a call reads; of data, which have no gradient, to what its block hands on beside a shortcut."""
    share = recording.signal(SignalKind.INPUT_GRADIENT, call.depth)
    if share is None:
        return math.nan if call.input_requires_grad else _of_data(recording, call, reference)
    return max(decades(norm_ratio(share, reference)), log_ratio(norm_past(recording, call, share.norm), reference.norm))


def _of_data(recording: Recording, call: Call, reference: TensorStats) -> float:
    """The same of the first block of a list: where the next block's input goes around that block, so does its own."""
    following = _next_of_its_list(recording, call)
    share = None if following is None else recording.signal(SignalKind.INPUT_GRADIENT, following.depth)
    if following is None or share is None:
        return math.nan
    past = norm_past(recording, following, share.norm)
    if past > share.norm:  # the caller adds what the block returns to what it has read
        return log_ratio(past, reference.norm)
    if share.norm > _MUCH * _sent_by_branches(recording, following):  # the block itself does
        return decades(norm_ratio(recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth), reference))
    return math.nan


def _next_of_its_list(recording: Recording, call: Call) -> Call | None:
    """The next call of the same caller, if it is of the same type and an entry of the same list."""
    before, _, entry = call.module.rpartition(".")
    if not entry.isdigit():
        return None
    siblings = recording.children(call.parent)
    position = bisect_right(siblings, call.depth)
    following = recording.calls[siblings[position]] if position < len(siblings) else None
    if following is None or following.module_type != call.module_type:
        return None
    list_of_next, _, other = following.module.rpartition(".")
    return following if list_of_next == before and other.isdigit() else None


def _sent_by_branches(recording: Recording, call: Call) -> float:
    """Norm of what the calls inside of a block send to its input, together; inf where none of them reads it as it is."""
    read = {signal.tensor for signal in recording.select(SignalKind.INPUT_GRADIENT, depth=call.depth)}
    sent = [
        signal.stats.norm
        for child in recording.children(call.depth)
        for signal in recording.select(SignalKind.INPUT_GRADIENT, depth=child)
        if signal.tensor in read
    ]
    return math.hypot(*sent) if sent else math.inf
