"""The gradient that one call sends to one of its inputs: its own share, where the input has other readers too.

`x + layer(x)` reads x twice, and autograd hands the sum of both gradients on. To know what the layer did to the
gradient, its share is read where the layer's own graph ends: at the edges that lead from nodes made during the call
to the node that made x.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial, reduce

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from headwater.capture import torch_internals

Edge = tuple[Node, int]  # a node and the number of one of its inputs (boundary) or outputs (source)
Exit = tuple[Edge, Edge]  # from an input of a node made during the call to the output of one that was not

LEAF = (1 << 64) - 1  # sequence number of every node that adds to a leaf's gradient
# A loop that reads x[:, t] at each of T steps sends back T gradients of x's size; autograd adds them up as they come.
_MOST_HELD = 8


def boundary_edges(
    outputs: Collection[Node],
    sources: Collection[Edge],
    first_sequence_number: int,
    exits_of_children: Mapping[Node, list[Exit]],
) -> tuple[dict[Edge, list[Edge]], dict[Node, list[Exit]]]:
    """Per source, the edges by which the graph of a call reads it (node, number of the node's input); and its exits.

    Only nodes made since the call began are visited (autograd numbers them in order), so the cost is that of the call
    even where it reads tensors from the start of the network; and what a child call has found is not searched again,
    so that it stays so however deeply calls are nested.

    Args:
        outputs: the nodes that made what the call returned.
        sources: the nodes, with output numbers, that made the call's inputs.
        first_sequence_number: autograd's next number when the call began.
        exits_of_children: all exits of each child call, by the one node that made its output.

    Returns:
        The edges, and all exits (but those to leaves) by the node that made the output. There are none where several
        nodes made the outputs: it is not known which exits belong to which.
    """
    found: dict[Edge, list[Edge]] = {source: [] for source in sources}
    if any(node._sequence_nr() == LEAF for node, _ in found):
        exits_of_children = {}
    exits: list[Exit] = []
    stack = [node for node in outputs if first_sequence_number <= node._sequence_nr() < LEAF]
    exits_by_output = {stack[0]: exits} if len(stack) == 1 else {}
    inside = set(stack)
    while stack:
        node = stack.pop()
        leaving = exits_of_children.get(node)
        if leaving is None:
            leaving = [((node, i), (made_by, nr)) for i, (made_by, nr) in enumerate(node.next_functions) if made_by]
        for edge, source in leaving:
            if source in found:
                found[source].append(edge)
                exits.append((edge, source))
            elif source[0] not in inside:
                number = source[0]._sequence_nr()
                if number < first_sequence_number:
                    exits.append((edge, source))
                elif number < LEAF:
                    inside.add(source[0])
                    stack.append(source[0])
    # What a child has found may also have been reached past the child's output.
    return {source: list(dict.fromkeys(edges)) for source, edges in found.items()}, exits_by_output


class InputGradient:
    """Collects what arrives over the edges, a few tensors at a time, and passes it on when all of it is there.

    Args:
        edges: of one source, from `boundary_edges`.
        receive: called with the gradients, whose sum is the call's share, once every edge has delivered, in each
            backward pass.
    """

    def __init__(self, edges: list[Edge], receive: Callable[[list[Tensor]], None]) -> None:
        self._num_edges = len(edges)
        self._receive = receive
        self._arrived: set[int] = set()
        self._gradients: list[Tensor] = []

    def hook(self, edges: list[Edge]) -> Iterator[RemovableHandle]:
        """Registers on the edges' nodes; the caller keeps the handles."""
        for number, (node, position) in enumerate(edges):
            yield node.register_hook(partial(self._deliver, number, position))

    def flush(self) -> None:
        """Passes on what has arrived where some edges never delivered (a backward pass through a part)."""
        self._arrived.clear()
        if self._gradients:
            gradients, self._gradients = self._gradients, []
            self._receive(gradients)

    @torch_internals.unseen
    def _deliver(
        self, number: int, position: int, gradients: tuple[Tensor | None, ...], _: tuple[Tensor | None, ...]
    ) -> None:
        if number in self._arrived:  # a new backward pass began before the last one was complete
            self.flush()
        self._arrived.add(number)
        gradient = gradients[position]
        if gradient is not None:
            self._gradients.append(gradient)
            if len(self._gradients) > _MOST_HELD:
                self._add_up()
        if len(self._arrived) == self._num_edges:
            self.flush()

    def _add_up(self) -> None:
        """In a tensor of its own: the gradients are the user's. Not of sparse ones, which are small, and may not add up."""
        if all(gradient.layout is torch.strided for gradient in self._gradients):
            self._gradients = [reduce(torch.add, (gradient.detach() for gradient in self._gradients))]
