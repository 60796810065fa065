"""The names under which series tell the operations of one call apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from headwater.recording import Operation, Recording


def operation_items(recording: Recording) -> Iterator[tuple[Operation, str]]:
    """The operations in execution order, each with the item of its series: "F.relu", and "F.relu 2" for the second in the same call.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> [builder.add_operation(name) for name in ("F.relu", "F.gelu", "F.relu")]
    [0, 1, 2]
    >>> [item for _, item in operation_items(builder.build())]
    ['F.relu', 'F.gelu', 'F.relu 2']
    """
    number: Counter[tuple[int, str]] = Counter()
    for operation in recording.operations:
        if not operation.is_cut:
            number[operation.depth, operation.name] += 1
            count = number[operation.depth, operation.name]
            yield operation, operation.name if count == 1 else f"{operation.name} {count}"
