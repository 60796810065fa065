"""Who made what, from what: calls, tensors and operations; operations are known where lines were traced."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from headwater.recording import Call, Recording, SignalKind


class TensorGraph:
    """The calls, tensors and operations of one recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._producers: dict[int, list[int]] = {}
        for operation, producer in recording.edge_table[["operation", "producer"]].tolist():
            self._producers.setdefault(operation, []).append(producer)
        self._inside: dict[int, list[int]] = {}
        for operation, depth in enumerate(recording.operation_table["depth"].tolist()):
            self._inside.setdefault(depth, []).append(operation)

    def inputs(self, call: Call) -> list[int]:
        """Numbers of the tensors that a call reads."""
        return [signal.tensor for signal in self._recording.select(SignalKind.INPUT, depth=call.depth)]

    def outputs(self, call: Call) -> list[int]:
        """Numbers of the tensors that a call returns."""
        return [signal.tensor for signal in self._recording.select(SignalKind.ACTIVATION, depth=call.depth)]

    def makers(self, tensors: Iterable[int]) -> set[int]:
        """The operations that made tensors, where they are known."""
        made_by = self._recording.operation_by_tensor
        return {made_by[tensor] for tensor in tensors if tensor in made_by}

    def producers(self, operation: int) -> list[int]:
        """The operations whose results an operation reads."""
        return self._producers.get(operation, [])

    def read_by(self, call: Call) -> set[int]:
        """The operations outside of a call whose results are read by those inside of it."""
        end = call.depth
        while children := self._recording.children(end):
            end = children[-1]
        inside = {operation for depth in range(call.depth, end + 1) for operation in self._inside.get(depth, ())}
        return {producer for operation in inside for producer in self._producers.get(operation, ())} - inside

    def depends(self, operation: int, goals: set[int], oldest: int) -> bool:
        """Whether an operation is one of the goals, or reads what they returned, by way of operations from the oldest on."""
        stack, seen = [operation], {operation}
        while stack:
            current = stack.pop()
            if current in goals:
                return True
            unseen = [p for p in self._producers.get(current, ()) if p >= oldest and p not in seen]
            seen.update(unseen)
            stack += unseen
        return False

    def ancestors(self, operation: int, oldest: int) -> set[int]:
        """The operations, from the oldest on, whose results an operation reads, directly or not."""
        stack, found = [operation], set[int]()
        while stack:
            unseen = [p for p in self._producers.get(stack.pop(), ()) if p >= oldest and p not in found]
            found.update(unseen)
            stack += unseen
        return found

    def handed_on(self, earlier: Call, later: Call) -> tuple[int, ...]:
        """Numbers of the tensors that one call returned and another one reads."""
        read = self.inputs(later)
        return tuple(tensor for tensor in self.outputs(earlier) if tensor in read)

    def feeds(self, earlier: Call, later: Call) -> bool:
        """Whether a call reads what another one returned, through operations of no module."""
        goals = self.makers(self.outputs(earlier))
        return bool(goals) and any(self.depends(operation, goals, min(goals)) for operation in self.read_by(later))

    def descendants(self, operations: Collection[int]) -> set[int]:
        """The operations themselves, and all that read what they returned, directly or not."""
        found = set(operations)
        first = min(found, default=0)
        for operation in sorted(one for one in self._producers if one > first):
            if not found.isdisjoint(self._producers[operation]):
                found.add(operation)
        return found
