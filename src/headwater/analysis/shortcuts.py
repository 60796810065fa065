"""Shortcuts in a caller's own forward: what flows around a call that is added to what it has read (`x = x + g * branch(x)`)."""

from __future__ import annotations

from headwater.analysis.operation_path import OperationFlow, operation_flow
from headwater.recording import Call, Recording, SignalKind

_MUCH = 10.0  # times the call's own share, from which it is worth a look
_MERGES = ("add", "add_", "__add__", "__radd__", "__iadd__", "sum")


def norm_past(recording: Recording, call: Call, share: float) -> float:
    """Norm of the gradient of what the call reads, if most of it comes through an addition beside the call; else its own share.

    Two branches that read the same do not count for each other: only what is added to the stream itself flows around.

    Args:
        recording: with operations, for anything but the share to be known.
        call: of a block.
        share: norm of the gradient that the call sends to its input.
    """
    made_by, operations = recording.operation_by_tensor, recording.operations
    for signal in recording.select(SignalKind.INPUT_GRADIENT, depth=call.depth):
        maker = made_by.get(signal.tensor)
        if maker is None or not operations[maker].gradient_norm > _MUCH * share:
            continue
        flow = operation_flow(recording)
        for edge in flow.readers[maker]:
            reader = operations[edge.operation]
            is_merge = reader.name.rpartition(".")[2].lower() in _MERGES and reader.depth == call.parent
            if is_merge and flow.sent_norm(edge) > _MUCH * share and _adds(recording, flow, reader.index, maker, call):
                return operations[maker].gradient_norm
    return share


def _adds(recording: Recording, flow: OperationFlow, merge: int, maker: int, call: Call) -> bool:
    """Whether what is added to the stream there comes from the call: the gradient's way leads into it before the stream's maker."""
    end = call.depth
    while children := recording.children(end):
        end = children[-1]
    waiting, seen = [merge], {merge}
    while waiting:
        index = waiting.pop()
        if call.depth <= flow.operations[index].depth <= end:
            return True
        before = {edge.producer for edge in flow.producers[index] if edge.producer > maker} - seen
        seen |= before
        waiting += before
    return False
