"""The operations between the loss and the modules' outputs: how the gradient gets from one to the next.

An operation is all the autograd nodes that one torch function made, where source lines are traced; otherwise those that
one call of a module without children made; otherwise one node. Its nodes are made one after another, so operations
never depend on each other in a circle.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from torch import Tensor
from torch.autograd.graph import Node

from headwater.capture import torch_internals
from headwater.capture.input_gradients import LEAF, Edge
from headwater.capture.observations import Measured
from headwater.recording import narrow_places

Interval = tuple[int, int]  # sequence numbers: the first, and the one after the last


@dataclass(slots=True, eq=False)
class ObservedOperation:
    """Some autograd nodes that are looked at as one.

    Args:
        first, end: their sequence numbers are in `range(first, end)`.
        interval: position of the interval they were made in; -1 for a node of its own.
        gradients: what arrived at each output that other operations read.
        producers: the operations that made what this one reads, each with the edges that lead to each thing it reads.
        sent: what it sent to each of them, measured where others read there too.
        outputs: what other operations read of it.
        is_view: its nodes only give the gradient another shape.
        same_as: its only reader, where that is a view: what arrives there arrives here, in another shape.
        leaves: ids of the leaf tensors that come in by it, itself or by what is left out before it (a weight's transpose).
    """

    first: int
    end: int
    interval: int
    name: str
    gradients: list[Measured] = field(default_factory=list)
    producers: dict[ObservedOperation, dict[Edge, list[Edge]]] = field(default_factory=dict)
    sent: dict[ObservedOperation, list[Measured]] = field(default_factory=dict)
    outputs: set[Edge] = field(default_factory=set)
    is_view: bool = True
    same_as: ObservedOperation | None = None
    leaves: set[int] = field(default_factory=set)

    def measured_at(self) -> ObservedOperation:
        """The operation where what arrives here is measured: this one, or the first of the views behind it."""
        operation = self
        while operation.same_as is not None:
            operation = operation.same_as
        return operation


# One of so many first layers will be the one whose waterfall is asked for.
_HEADWATERS = 4
# Nodes that give their gradient another shape and leave its values.
_VIEWS = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Unsqueeze", "Squeeze", "Clone", "Alias")
# Nodes of products that weights come in by.
_PRODUCTS = ("Mm", "Addmm", "Mv", "Addmv", "Bmm", "Baddbmm", "Dot", "Convolution", "Embedding", "Linear")


class OperationGraph:
    """The operations that a backward pass from the roots goes through on its way to the observed tensors.

    Args:
        roots: the tensors that the backward pass begins at.
        intervals: of sequence numbers, in order and apart from each other, that are one operation each.
        made: sequence numbers of the nodes that made the observed tensors. What leads to none of them, nor to a product
            of data and a weight, is left out: a weight's transpose, say.
        products: positions of the intervals that are known to be such products.
    """

    def __init__(
        self,
        roots: Iterable[Tensor],
        intervals: Sequence[Interval],
        made: Iterable[int],
        products: Collection[int] = (),
    ) -> None:
        self._intervals = intervals
        self._starts = [first for first, _ in intervals]
        self._of_node: dict[Node, ObservedOperation] = {}
        self._of_interval: dict[int, ObservedOperation] = {}
        root_edges = [(root.grad_fn, root.output_nr) for root in roots if root.grad_fn is not None]
        self._search(root_edges)
        self.operations = self._leading_to(set(made), products)
        self._roots = {self._of_node[node] for node, _ in root_edges}
        self._find_same()

    def narrow(self) -> set[ObservedOperation]:
        """The operations that all of the gradient goes through on its way to one of the first that made observed tensors."""
        index_of = {operation: index for index, operation in enumerate(self.operations)}
        producers = [[index_of[producer] for producer in operation.producers] for operation in self.operations]
        targets = [index_of[operation] for operation in self.operations if operation in self._made][:_HEADWATERS]
        return {self.operations[index] for target in targets for index in narrow_places(producers, target)}

    def shared(self) -> list[tuple[ObservedOperation, ObservedOperation]]:
        """Each reader with each operation it reads that others read too."""
        num_readers: dict[ObservedOperation, int] = {}
        pairs = [(operation, producer) for operation in self.operations for producer in operation.producers]
        for _, producer in pairs:
            num_readers[producer] = num_readers.get(producer, 0) + 1
        return [(reader, producer) for reader, producer in pairs if num_readers[producer] > 1]

    def by_sequence_number(self) -> dict[int, ObservedOperation]:
        """The operation of each node, by the node's number."""
        return {node._sequence_nr(): operation for node, operation in self._of_node.items()}

    def _search(self, root_edges: list[Edge]) -> None:
        stack = [node for node, _ in root_edges]
        seen = set(stack)
        for edge in root_edges:
            self._operation(edge[0]).outputs.add(edge)
        while stack:
            node = stack.pop()
            operation = self._operation(node)
            for position, (made_by, number) in enumerate(node.next_functions):
                if made_by is None or made_by._sequence_nr() >= LEAF:
                    operation.leaves.update(torch_internals.leaf_ids(made_by))
                    continue
                producer = self._operation(made_by)
                if producer is not operation:
                    producer.outputs.add((made_by, number))
                    sources = operation.producers.setdefault(producer, {})
                    sources.setdefault((made_by, number), []).append((node, position))
                if made_by not in seen:
                    seen.add(made_by)
                    stack.append(made_by)

    def _find_same(self) -> None:
        readers: dict[ObservedOperation, list[ObservedOperation]] = {}
        for operation in self._of_node.values():
            for producer in operation.producers:
                readers.setdefault(producer, []).append(operation)
        for producer, found in readers.items():
            if len(found) == 1 and found[0].is_view and len(producer.outputs) == 1 and producer not in self._roots:
                producer.same_as = found[0]

    def _operation(self, node: Node) -> ObservedOperation:
        known = self._of_node.get(node)
        if known is not None:
            return known
        number = node._sequence_nr()
        position = bisect_right(self._starts, number) - 1
        if position >= 0 and number < self._intervals[position][1]:
            operation = self._of_interval.get(position)
            if operation is None:
                operation = ObservedOperation(*self._intervals[position], position, "")
                self._of_interval[position] = operation
        else:
            operation = ObservedOperation(number, number + 1, -1, torch_internals.node_name(node))
        self._of_node[node] = operation
        operation.is_view &= torch_internals.node_name(node) in _VIEWS
        return operation

    def _leading_to(self, made: set[int], products: Collection[int]) -> list[ObservedOperation]:
        """In the order they ran, those from which the gradient goes on to an observed tensor, or which made one."""
        ordered = _producers_first(set(self._of_node.values()))
        self._made = {
            operation
            for node, operation in self._of_node.items()
            if node._sequence_nr() in made or operation.interval in products or _multiplies_data_by_a_weight(node)
        }
        kept: dict[ObservedOperation, None] = {}
        for operation in ordered:
            operation.leaves.update(*(p.leaves for p in operation.producers if p not in kept))
            operation.producers = {p: edges for p, edges in operation.producers.items() if p in kept}
            if operation.producers or operation in self._made:
                kept[operation] = None
        return list(kept)


def _producers_first(operations: set[ObservedOperation]) -> list[ObservedOperation]:
    """In the order they ran, as far as what they read came before them.

    Mostly that is the order of their numbers; but of a view of what was changed in place, autograd makes the node late.
    """
    num_missing = {operation: len(operation.producers) for operation in operations}
    readers: dict[ObservedOperation, list[ObservedOperation]] = {}
    for operation in operations:
        for producer in operation.producers:
            readers.setdefault(producer, []).append(operation)
    ready = [(operation.first, id(operation), operation) for operation, missing in num_missing.items() if not missing]
    heapify(ready)
    ordered: list[ObservedOperation] = []
    while ready:
        operation = heappop(ready)[-1]
        ordered.append(operation)
        for reader in readers.get(operation, ()):
            num_missing[reader] -= 1
            if not num_missing[reader]:
                heappush(ready, (reader.first, id(reader), reader))
    return ordered


def _multiplies_data_by_a_weight(node: Node) -> bool:
    """Whether one factor is a leaf (or made of one), and another wants no gradient: the first layer of functional code."""
    if torch_internals.node_name(node) not in _PRODUCTS:
        return False
    sources = [made_by for made_by, _ in node.next_functions]
    return None in sources and any(made_by is not None for made_by in sources)
