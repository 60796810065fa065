"""The operations of two recordings as those of one."""

from __future__ import annotations

import math
from collections.abc import Callable

from headwater.recording.builder import RecordingBuilder
from headwater.recording.recording import Recording

# Series whose values are indices of operations: without the operations they say nothing.
OF_OPERATIONS = ("operations_with_own_slopes", "operations_that_read", "cuts_behind", "left_out_by_a_loop")


def have_the_same_operations(a: Recording, b: Recording) -> bool:
    """Whether both passes ran the same operations, in the same lines, one after another.

    >>> a, b = RecordingBuilder(), RecordingBuilder()
    >>> _ = a.add_operation("torch.tanh")
    >>> have_the_same_operations(a.build(), b.build())
    False
    """
    ran, edges = (
        [[(o.name, o.line, o.depth) for o in recording.operations] for recording in (a, b)],
        [[(edge.operation, edge.producer) for edge in recording.operation_edges] for recording in (a, b)],
    )
    return ran[0] == ran[1] and edges[0] == edges[1]


def add_operations(builder: RecordingBuilder, a: Recording, b: Recording, number_of: Callable[[int, int], int]) -> None:
    """Adds the operations where both passes ran the same, and none otherwise: half of a gradient's way would mislead.

    Args:
        builder: of the merged recording.
        a: one recording.
        b: the other.
        number_of: of a tensor of one side (0 or 1), in the merged recording.
    """
    if not have_the_same_operations(a, b):
        return
    for first, second in zip(a.operations, b.operations, strict=True):
        builder.add_operation(
            first.name,
            line=first.line,
            depth=first.depth,
            gradient_norm=_joint_norm(first.gradient_norm, second.gradient_norm),
            is_finite=first.is_finite and second.is_finite,
            is_cut=first.is_cut,
        )
    for one, other in zip(a.operation_edges, b.operation_edges, strict=True):
        builder.add_operation_edge(one.operation, one.producer, _joint_norm(one.gradient_norm, other.gradient_norm))
    made_by = {
        number_of(side, tensor): operation
        for side, recording in enumerate((a, b))
        for tensor, operation in recording.operation_by_tensor.items()
    }
    for tensor in sorted(made_by):
        builder.add_made_by(tensor, made_by[tensor])


def _joint_norm(a: float, b: float) -> float:
    return b if math.isnan(a) else a if math.isnan(b) else math.hypot(a, b)
