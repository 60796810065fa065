"""Reads what stands in the branch of a block with a shortcut: a chain of operations beside a sum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwater.analysis.causes import Cause, cause_of, hands_on
from headwater.analysis.operation_path import operation_flow
from headwater.recording import Operation, Recording, SignalKind, TensorStats, merged_stats


@dataclass(frozen=True, slots=True)
class BranchPart:
    """One operation of a branch, or one module that is a norm or an activation and made of several.

    Args:
        name: of the torch function, or the type of the module.
        cause: what kind of thing it is.
        module: that it ran in.
        squared_gain: (norm of the gradient that it sends on / norm of what arrives)²; nan where one is not known.
        reads: index of the operation that made what it reads.
    """

    name: str
    cause: Cause
    module: str
    squared_gain: float
    reads: int


class BranchReader:
    """Reads the branches of one recording; what they share is looked up once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._flow = operation_flow(recording)
        self._tensors: dict[int, set[int]] = {}
        for tensor, operation in recording.operation_by_tensor.items():
            self._tensors.setdefault(operation, set()).add(tensor)
        self._stats = {
            kind: {signal.tensor: signal.stats for signal in recording.select(kind)}
            for kind in (SignalKind.ACTIVATION, SignalKind.ACTIVATION_GRADIENT)
        }

    def branch(self, operations: Sequence[int]) -> list[BranchPart] | None:
        """The parts of a block's branch in the gradient's order, the sum first; None where the block is none of a chain and a shortcut.

        Args:
            operations: of the block, in execution order; the last one is the sum.
        """
        *inside, start = operations
        block = set(operations)
        if not hands_on(self._recording.operations[start].name) or len(self._flow.producers[start]) != 2:
            return None
        ends = {edge.producer for edge in self._flow.producers[start]}
        target = self._target(block)
        chains = [self._chain(end, block, target) for end in ends]
        if None in chains or len(chains) != 2:
            return None
        found = sorted((chain for chain in chains if chain is not None), key=self._changes)
        shortcut, branch = found
        covered = sum(len(group) for group in (*shortcut, *branch))
        if self._changes(shortcut) or not self._changes(branch) or covered != len(inside):
            return None
        return list(self._parts(start, branch, target))

    def mean_square(self, operation: int) -> float | None:
        """Of what an operation returned, through views behind it; None where that was not measured."""
        found = self._merged(SignalKind.ACTIVATION, operation)
        if found is not None and found.finite_count:
            return found.rms**2
        producers = self._flow.producers[operation]
        if hands_on(self._recording.operations[operation].name) and len(producers) == 1:
            return self.mean_square(producers[0].producer)
        return None

    def _target(self, block: set[int]) -> int:
        """What the block reads: the one producer outside that is not aside of the way."""
        outside = [edge.producer for index in block for edge in self._flow.producers[index]]
        return max((index for index in outside if index not in block), default=-1)

    def _chain(self, end: int, block: set[int], target: int) -> list[list[int]] | None:
        """Groups of operations from one that the sum reads to the block's input, one behind the other."""
        chain: list[list[int]] = []
        while end != target:
            if end not in block:
                return None
            group = self._group(end, block)
            read = {edge.producer for index in group for edge in self._flow.producers[index]} - set(group)
            if len(read) != 1:
                return None
            chain.append(group)
            end = read.pop()
        return chain

    def _group(self, index: int, block: set[int]) -> list[int]:
        """The operation, first, and those of the same norm or activation written out."""
        operation = self._recording.operations[index]
        if self._is_one_thing(operation):
            same = [i for i in block if self._recording.operations[i].depth == operation.depth and i < index]
            return [index, *same]
        return [index]

    def _is_one_thing(self, operation: Operation) -> bool:
        if operation.depth < 0 or self._recording.children(operation.depth):
            return False
        return cause_of(self._recording.calls[operation.depth].module_type) in (Cause.NORMALISATION, Cause.ACTIVATION)

    def _changes(self, chain: Sequence[Sequence[int]]) -> bool:
        return not all(hands_on(self._recording.operations[index].name) for group in chain for index in group)

    def _parts(self, start: int, branch: Sequence[Sequence[int]], target: int) -> Iterator[BranchPart]:
        firsts = [start, *(group[0] for group in branch)]
        arriving = [self._arriving(index) for index in firsts]
        last = [self._flow.sent_norm(e) for i in branch[-1] for e in self._flow.producers[i] if e.producer == target]
        sent = [*arriving[1:], math.hypot(*last)]
        for first, got, gave, reads in zip(firsts, arriving, sent, [*firsts[1:], target], strict=True):
            operation = self._recording.operations[first]
            call = self._recording.calls[operation.depth] if operation.depth >= 0 else None
            is_one = call is not None and self._is_one_thing(operation)
            name = call.module_type if call is not None and is_one else operation.name
            squared = (gave / got) ** 2 if got > 0.0 else math.nan
            yield BranchPart(name, cause_of(name), "" if call is None else call.module, squared, reads)

    def _arriving(self, index: int) -> float:
        """Norm of the gradient that arrives at an operation; nan where nobody measured it."""
        norm = self._recording.operations[index].gradient_norm
        if not math.isnan(norm):
            return norm
        found = self._merged(SignalKind.ACTIVATION_GRADIENT, index)
        return math.nan if found is None else found.norm

    def _merged(self, kind: SignalKind, operation: int) -> TensorStats | None:
        known = self._stats[kind]
        return merged_stats([known[tensor] for tensor in self._tensors.get(operation, ()) if tensor in known])
