"""The way of the gradient from operation to operation, and the narrow places that all of it goes through."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from headwater.recording import Operation, OperationEdge, Recording, computed_once, leading_to, narrow_places


@dataclass(frozen=True, slots=True)
class Step:
    """From one narrow place to the next: a single operation, or a block in which the gradient has several ways.

    Args:
        operations: in execution order; the last one is the first that the gradient goes through.
        decades: log10 of norm(gradient after it) / norm(gradient before it); their sum over all steps is that of the way.
        entering: the edges by which the gradient arrives at the next narrow place.
        target: index of the operation at the next narrow place.
    """

    operations: tuple[Operation, ...]
    decades: float
    entering: tuple[OperationEdge, ...]
    target: int


class OperationFlow:
    """The operations of one recording, and who reads what of whom."""

    def __init__(self, recording: Recording) -> None:
        self.operations: Sequence[Operation] = recording.operations
        self.producers: list[list[OperationEdge]] = [[] for _ in self.operations]
        self.readers: list[list[OperationEdge]] = [[] for _ in self.operations]
        for edge in recording.operation_edges:
            self.producers[edge.operation].append(edge)
            self.readers[edge.producer].append(edge)

    def sent_norm(self, edge: OperationEdge) -> float:
        """Norm of what flows along an edge: measured where the producer has several readers, all that arrives else."""
        if len(self.readers[edge.producer]) > 1:
            return edge.gradient_norm
        return self.operations[edge.producer].gradient_norm

    def gain_decades(self, operation: Operation) -> float:
        """log10 of the largest gradient that the operation sends on / what arrives; nan where it sends to nobody.

        Where an operation has one input on the way, the gains of a chain of them add up to the way's.
        """
        sent = [self.sent_norm(edge) for edge in self.producers[operation.index]]
        known = [norm for norm in sent if not math.isnan(norm)]
        return log_ratio(max(known, default=math.nan), operation.gradient_norm)

    def readers_of(self, start: Iterable[int]) -> set[int]:
        """The operations themselves, and all that read what they made, directly or not; by index."""
        return _reached(start, lambda index: {edge.operation for edge in self.readers[index]})

    def read_by(self, start: Iterable[int]) -> set[int]:
        """The operations themselves, and all whose results they read, directly or not; by index."""
        return _reached(start, lambda index: {edge.producer for edge in self.producers[index]})

    def num_operations_in(self, depth: int) -> int:
        """How many operations ran in a call itself, not in those it called."""
        return self._num_by_depth.get(depth, 0)

    @cached_property
    def _num_by_depth(self) -> dict[int, int]:
        return Counter(operation.depth for operation in self.operations if not operation.is_cut)

    @cached_property
    def roots(self) -> list[int]:
        """The operations that nobody reads: where the backward pass begins."""
        return [o.index for o in self.operations if not self.readers[o.index] and not o.is_cut]

    def way_to(self, target: int) -> list[Step]:
        """The steps from where the backward pass begins to the output of an operation, in the gradient's order.

        A narrow place is an operation that every way from the roots to the target goes through. Where the pass begins at several roots, the first step begins at the first narrow place.
        """
        producers = [[edge.producer for edge in edges] for edges in self.producers]
        leading = leading_to(producers, target)
        narrow = [index for index in narrow_places(producers, target) if self._is_measured(index)]
        return [self._step(start, end, leading) for start, end in pairwise(narrow)]

    def _is_measured(self, index: int) -> bool:
        """Where lines are not traced, only what seemed narrow is measured."""
        return not math.isnan(self.operations[index].gradient_norm)

    def _step(self, start: int, end: int, leading: Sequence[bool]) -> Step:
        inside = [self.operations[i] for i in range(end + 1, start + 1) if leading[i]]
        entering = tuple(edge for edge in self.readers[end] if leading[edge.operation] and edge.operation <= start)
        ratio = log_ratio(self.operations[end].gradient_norm, self.operations[start].gradient_norm)
        return Step(tuple(inside), ratio, entering, end)

    def passes_unchanged(self, step: Step, unchanging: Mapping[int, bool]) -> tuple[float, float] | None:
        """Norms of what arrives at the end of a step through a branch, and through a shortcut; None without a shortcut.

        Args:
            step: with several operations.
            unchanging: for each operation of the step, by index, whether it hands the gradient on as it is.
        """
        start = step.operations[-1].index
        on_shortcut = {start} if unchanging[start] else set()
        for operation in reversed(step.operations[:-1]):
            readers = self.readers[operation.index]
            if unchanging[operation.index] and any(edge.operation in on_shortcut for edge in readers):
                on_shortcut.add(operation.index)
        shortcut = [self.sent_norm(edge) for edge in step.entering if edge.operation in on_shortcut]
        branch = [self.sent_norm(edge) for edge in step.entering if edge.operation not in on_shortcut]
        return (math.hypot(*branch), math.hypot(*shortcut)) if shortcut and branch else None


def _reached(start: Iterable[int], following: Callable[[int], set[int]]) -> set[int]:
    waiting = list(start)
    seen = set(waiting)
    while waiting:
        unseen = following(waiting.pop()) - seen
        seen |= unseen
        waiting += unseen
    return seen


@computed_once
def operation_flow(recording: Recording) -> OperationFlow:
    """The operations of a recording.

    >>> from headwater.recording import RecordingBuilder
    >>> operation_flow(RecordingBuilder().build()).roots
    []
    """
    return OperationFlow(recording)


def log_ratio(numerator: float, denominator: float) -> float:
    """log10 of a ratio of norms; -inf for a zero numerator, nan where one is unknown or the denominator is no number.

    >>> log_ratio(1.0, 100.0), log_ratio(0.0, 1.0), log_ratio(1.0, 0.0)
    (-2.0, -inf, nan)
    """
    if not 0.0 < denominator < math.inf or not 0.0 <= numerator < math.inf:
        return math.nan
    # The difference of logarithms: the ratio itself may leave the range of float64.
    return math.log10(numerator) - math.log10(denominator) if numerator > 0.0 else -math.inf
