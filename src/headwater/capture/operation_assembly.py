"""Turns the operations that were observed into rows of the recording."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from headwater.capture import torch_internals
from headwater.capture.functional_activations import (
    RECTIFIED,
    SOFTMAX_NUMBER,
    SQUASHED,
    UNIT_MAXIMUM,
    UNIT_MINIMUM,
)
from headwater.capture.functional_products import MULTIPLIED
from headwater.capture.functional_products import SPREAD as PRODUCT_SPREAD
from headwater.capture.graph_cuts import TracedCut
from headwater.capture.loops_over_layers import LeftOut
from headwater.capture.observations import Measured, ObservedCall, ObservedTensor
from headwater.capture.operation_graph import Interval, ObservedOperation, OperationGraph
from headwater.capture.source_lines import SourceLines, operation_name, source_line
from headwater.recording import Combine, RecordingBuilder, SourceLine, TensorStats, merged_stats

_COMBINE = {
    UNIT_MINIMUM: Combine.MINIMUM,
    UNIT_MAXIMUM: Combine.MAXIMUM,
    RECTIFIED: Combine.SUM,
    SQUASHED: Combine.SUM,
    MULTIPLIED: Combine.SUM,
    PRODUCT_SPREAD: Combine.MAXIMUM,
    SOFTMAX_NUMBER: Combine.MAXIMUM,
}
OWN_SLOPES = "operations_with_own_slopes"  # indices of those that read one tensor and made one of its shape
READERS = "operations_that_read"  # series of a parameter: the indices of the operations that it comes in by
LEFT_OUT = "left_out_by_a_loop"  # series of an entry of a list: the index of the cut that stands for the statement
CUTS = "cuts_behind"  # series of a parameter without a gradient: the indices of the cuts that read what depends on it
StatsOf = Callable[[Measured], TensorStats]


class ObservedOperations:
    """The operations behind some roots, and the lines they come from where those were traced.

    Args:
        graph: the operations.
        lines: what the function mode noted; None where lines were not asked for.
        calls: all calls of modules, in execution order.
    """

    def __init__(self, graph: OperationGraph, lines: SourceLines | None, calls: Sequence[ObservedCall]) -> None:
        self.graph = graph
        traced = self._traced = None if lines is None else lines.operations
        self._functions = {} if lines is None else lines.measured
        self._cuts = {} if lines is None else lines.cuts.found
        self._leaves = None if traced is not None else leaf_calls(calls)
        self._calls = [call for call in calls if call.end_sequence_number >= 0]
        self._firsts = [call.first_sequence_number for call in self._calls]
        self._cut_indices: dict[TracedCut, int] = {}

    def measured(self) -> Iterable[Measured]:
        """All that was measured of them, to be moved from its device."""
        for operation in self.graph.operations:
            yield from operation.gradients
            for shares in operation.sent.values():
                yield from shares

    def add_to(
        self,
        builder: RecordingBuilder,
        depths: Mapping[ObservedCall, int],
        tensor_numbers: Mapping[ObservedTensor, int],
        stats_of: StatsOf,
        module_of: Callable[[ObservedCall], int],
    ) -> Mapping[ObservedOperation, int]:
        """Adds operations, edges, what is known of activations, and which operation made which tensor; returns their indices."""
        indices: dict[ObservedOperation, int] = {}
        same: Counter[tuple[int, str]] = Counter()
        for operation in self.graph.operations:
            call = self._call_around(operation)
            stats = merged_stats([stats_of(measured) for measured in operation.measured_at().gradients])
            indices[operation] = builder.add_operation(
                self._name(operation),
                line=self._line(operation, call),
                depth=-1 if call is None else depths.get(call, -1),
                gradient_norm=math.nan if stats is None else stats.norm,
                is_finite=stats is None or not stats.nonfinite_count,
            )
            if call is not None and call in depths:
                self._add_measured(builder, operation, same, depths[call], module_of(call))
        for operation in self.graph.operations:
            for producer in operation.producers:
                sent = merged_stats([stats_of(measured) for measured in operation.sent.get(producer, ())])
                norm = math.nan if sent is None else sent.norm
                builder.add_operation_edge(indices[operation], indices[producer], norm)
        if self._traced is not None:
            own = [i for operation, i in indices.items() if self._traced_has_own_slope(operation)]
            if own:
                builder.add_series(OWN_SLOPES, own, combine=Combine.MAXIMUM)
        for cut in self._cuts:
            self._cut_indices[cut] = builder.add_operation(
                operation_name(cut.function),
                line=source_line(cut.file, cut.line) if cut.file else None,
                depth=-1 if cut.call is None else depths.get(cut.call, -1),
                is_cut=True,
            )
        by_number = self.graph.by_sequence_number()
        for tensor, number in tensor_numbers.items():
            maker = by_number.get(tensor.sequence_number)
            if maker in indices:
                builder.add_made_by(number, indices[maker])
        return indices

    def add_readers(
        self,
        builder: RecordingBuilder,
        indices: Mapping[ObservedOperation, int],
        owners: Mapping[int, tuple[int, str]],
    ) -> None:
        """Adds which operations parameters come in by, where functional code reads them (`x @ self.weight`).

        Args:
            builder: of the recording.
            indices: of the operations, in the recording.
            owners: by the parameter's id, its module and its name.
        """
        readers: dict[int, list[int]] = {}
        for operation in self._functional_readers():
            for leaf in operation.leaves:
                readers.setdefault(leaf, []).append(indices[operation])
        for leaf, found in readers.items():
            if leaf in owners:
                module, name = owners[leaf]
                item = name.rpartition(".")[2]
                builder.add_series(READERS, found, module=module, item=item, combine=Combine.MAXIMUM)

    def add_cuts(self, builder: RecordingBuilder, owners: Mapping[int, tuple[int, str]]) -> None:
        """Adds which cuts stand between a parameter and the loss; after `add_to`.

        Args:
            builder: of the recording.
            owners: by its id, module and name of each parameter that wants a gradient and got none.
        """
        by_line: dict[tuple[object, ...], list[TracedCut]] = {}
        for cut in self._cuts if owners else ():
            by_line.setdefault(cut[1:], []).append(cut)
        behind: dict[int, list[int]] = {}
        for cuts in by_line.values():
            sources = [source for cut in cuts for source in self._cuts[cut]]
            read = [source for source in sources if isinstance(source, Tensor)]
            made = [source for source in sources if not isinstance(source, Tensor)]
            for leaf in {id(leaf) for leaf in (*read, *torch_internals.leaves_behind_nodes(made))}:
                behind.setdefault(leaf, []).append(self._cut_indices[cuts[0]])
        for leaf, (module, name) in owners.items():
            if leaf in behind:
                item = name.rpartition(".")[2]
                builder.add_series(CUTS, behind[leaf], module=module, item=item, combine=Combine.MAXIMUM)

    def add_left_out(self, builder: RecordingBuilder, entries: Iterable[LeftOut], indices: Mapping[str, int]) -> None:
        """Adds which entries of lists no loop comes to, as cuts by the statements that leave them out; after `add_to`.

        Args:
            builder: of the recording.
            entries: of lists of modules.
            indices: of modules, by their paths.
        """
        by_place: dict[tuple[str, int], int] = {}
        for entry in entries:
            place = entry.file, entry.line
            if place not in by_place:
                by_place[place] = builder.add_operation("for", line=source_line(*place), is_cut=True)
            module = indices[entry.module]
            builder.add_series(LEFT_OUT, [by_place[place]], module=module, item=entry.how, combine=Combine.MAXIMUM)

    def _functional_readers(self) -> Iterator[ObservedOperation]:
        """The operations that leaf tensors come in by, in calls that are more than one layer.

        A call without children in which one operation reads them all is a layer itself, as nn.Linear is.
        """
        by_call: dict[ObservedCall | None, list[ObservedOperation]] = {}
        for operation in self.graph.operations if self._traced is not None else ():
            if operation.leaves:
                by_call.setdefault(self._call_around(operation), []).append(operation)
        for call, readers in by_call.items():
            if call is not None and (call.children or len(readers) > 1):
                yield from readers

    def _add_measured(
        self,
        builder: RecordingBuilder,
        operation: ObservedOperation,
        same: Counter[tuple[int, str]],
        depth: int,
        module: int,
    ) -> None:
        """Adds what was measured of it, under its name and the how many-th of that name in its call it is."""
        name = self._name(operation)
        same[depth, name] += 1
        measured = self._functions.get(operation.interval)
        for series, values in ({} if measured is None else measured.series()).items():
            number = same[depth, name]
            item = name if number == 1 else f"{name} {number}"
            builder.add_series(series, values, module=module, depth=depth, item=item, combine=_COMBINE[series])

    def _traced_has_own_slope(self, operation: ObservedOperation) -> bool:
        return self._traced is not None and operation.interval >= 0 and self._traced[operation.interval].has_own_slope

    def _name(self, operation: ObservedOperation) -> str:
        if operation.interval < 0:
            return operation.name
        if self._traced is not None:
            return operation_name(self._traced[operation.interval].function)
        assert self._leaves is not None
        return type(self._leaves[operation.interval].module).__name__

    def _line(self, operation: ObservedOperation, call: ObservedCall | None) -> SourceLine | None:
        """Where it was called; for what is no torch function (a custom autograd.Function), where its module was."""
        if self._traced is None:
            return None
        if operation.interval >= 0:
            traced = self._traced[operation.interval]
            file, line = traced.file, traced.line
        else:
            file, line = ("", 0) if call is None else call.line
        return source_line(file, line) if file else None

    def _call_around(self, operation: ObservedOperation) -> ObservedCall | None:
        """The innermost call in which the operation ran: calls begin in order, and are nested."""
        position = bisect_right(self._firsts, operation.first) - 1
        call = self._calls[position] if position >= 0 else None
        while call is not None and not operation.first < call.end_sequence_number:
            call = call.parent
        return call


def leaf_calls(calls: Iterable[ObservedCall]) -> list[ObservedCall]:
    """The finished calls that called no other and made autograd nodes."""
    parents = {call.parent for call in calls if call.parent is not None}
    return [call for call in calls if call not in parents and call.first_sequence_number < call.end_sequence_number]


def intervals_of_leaf_calls(calls: Iterable[ObservedCall]) -> list[Interval]:
    """The sequence numbers of the nodes that each of them made."""
    return [(call.first_sequence_number, call.end_sequence_number) for call in leaf_calls(calls)]
