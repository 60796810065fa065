"""The lines of code at which a gradient becomes exactly zero."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.analysis.operation_path import OperationFlow, operation_flow
from headwater.analysis.zero_origins import ZeroOrigin
from headwater.recording import Recording, SourceLine

_MOST_LINES = 3


def lines_turning_zero(recording: Recording, origins: Sequence[ZeroOrigin]) -> tuple[SourceLine, ...]:
    """The lines of the operations that get a gradient and send exactly zero to what the places are about; at most three.

    Args:
        recording: with operations; without, there are no lines.
        origins: as `zero_origins` finds them. For a call that passes nothing on these are operations inside of it, for a call
            behind which nothing is left those that its output goes into, directly or through others that get zero.

    >>> from headwater.recording import RecordingBuilder
    >>> lines_turning_zero(RecordingBuilder().build(), [])
    ()
    """
    if not recording.operations or not origins:
        return ()
    flow = operation_flow(recording)
    found: dict[SourceLine, None] = {}
    for origin in origins:
        for index in operations_turning_zero(recording, flow, origin):
            line = flow.operations[index].line
            if line is not None:
                found[line] = None
    return tuple(found)[:_MOST_LINES]


def operations_turning_zero(recording: Recording, flow: OperationFlow, origin: ZeroOrigin) -> list[int]:
    """Indices of the operations that get a gradient and send exactly zero to what a place is about; empty without operations.

    >>> from headwater.recording import RecordingBuilder
    >>> recording = RecordingBuilder().build()
    >>> operations_turning_zero(recording, OperationFlow(recording), ZeroOrigin(0, is_after=True))
    []
    """
    inside = [o.index for o in flow.operations if not o.is_cut and _runs_in(recording, o.depth, origin.depth)]
    if not origin.is_after:
        return [index for index in inside if _sends_zero(flow, index)]
    waiting, seen, found = inside[-1:], set(inside[-1:]), []
    while waiting:
        for edge in flow.readers[waiting.pop()]:
            if edge.operation in seen:
                continue
            seen.add(edge.operation)
            if flow.operations[edge.operation].gradient_norm > 0.0:
                if flow.sent_norm(edge) == 0.0:
                    found.append(edge.operation)
            else:
                waiting.append(edge.operation)
    return sorted(found)


def _sends_zero(flow: OperationFlow, index: int) -> bool:
    edges = flow.producers[index]
    return flow.operations[index].gradient_norm > 0.0 and any(flow.sent_norm(edge) == 0.0 for edge in edges)


def _runs_in(recording: Recording, depth: int, around: int) -> bool:
    while depth > around:
        depth = recording.calls[depth].parent
    return depth == around
