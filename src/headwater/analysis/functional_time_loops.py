"""Loops over time in functional code: one parameter multiplies a state again and again (`h = tanh(x_t @ self.w_x + h @ self.w_h)`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headwater.analysis.causes import Cause, cause_of
from headwater.analysis.functional_layers import parameter_readers
from headwater.analysis.tensor_graph import TensorGraph
from headwater.analysis.time_loops import JOINING, LEAST_CALLS, decides_by_sigmoids
from headwater.recording import Call, Operation, Recording


@dataclass(frozen=True, slots=True)
class FunctionalTimeLoop:
    """The products of one parameter with a state that each of them hands to the next.

    Args:
        call: they ran in.
        module: path of the one that the parameter belongs to.
        parameter: its own name there.
        products: in the order of time.
        has_gates: sigmoids decide at each step what is kept.
    """

    call: Call
    module: str
    parameter: str
    products: tuple[Operation, ...]
    has_gates: bool


def functional_time_loops(recording: Recording) -> Iterator[FunctionalTimeLoop]:
    """The loops over time of functional code, by parameter; known where lines were traced.

    Depth that ties its weights reads one parameter again and again, too, but brings nothing new to each product.

    >>> from headwater.recording import RecordingBuilder
    >>> list(functional_time_loops(RecordingBuilder().build()))
    []
    """
    graph: TensorGraph | None = None  # most recordings need none
    for readers in parameter_readers(recording):
        by_call: dict[int, list[Operation]] = {}
        for index in readers.values.astype(int).tolist():
            operation = recording.operations[index]
            if operation.depth >= 0 and cause_of(operation.name) is Cause.WEIGHTS:
                by_call.setdefault(operation.depth, []).append(operation)
        for depth, products in by_call.items():
            if len(products) < LEAST_CALLS:
                continue
            graph = graph or TensorGraph(recording)
            for chain in _chains(graph, sorted(products, key=lambda product: product.index)):
                if _reads_something_new(recording, graph, chain):
                    within = recording.operations[chain[0].index : chain[-1].index]
                    has_gates = decides_by_sigmoids(within, len(chain))
                    yield FunctionalTimeLoop(
                        recording.calls[depth], readers.module, readers.item, tuple(chain), has_gates
                    )


def _chains(graph: TensorGraph, products: Sequence[Operation]) -> Iterator[list[Operation]]:
    """The products, cut where one does not depend on the one before (truncated backpropagation detaches the state)."""
    chain = [products[0]]
    for earlier, later in pairwise(products):
        if not graph.depends(later.index, {earlier.index}, earlier.index):
            if len(chain) >= LEAST_CALLS:
                yield chain
            chain = []
        chain.append(later)
    if len(chain) >= LEAST_CALLS:
        yield chain


def _reads_something_new(recording: Recording, graph: TensorGraph, chain: Sequence[Operation]) -> bool:
    """Whether what is done between most products reads something that the loop did not make and that it has not read before."""
    own = graph.descendants([product.index for product in chain])
    seen: set[int] = set()
    num_new = 0
    for earlier, later in pairwise(chain):
        between = _between(graph, earlier.index, later.index)
        beside = {producer for operation in between for producer in graph.producers(operation)} - between
        fresh = beside - own - seen
        # Data joined to the state, cat([x_t, h]), left no mark of their own: then the state is all that is joined.
        joins_data = any(
            recording.operations[one].name.rpartition(".")[2] in JOINING and len(graph.producers(one)) == 1
            for one in between
        )
        num_new += bool(fresh) or joins_data
        seen |= fresh
    return 2 * num_new > len(chain) - 1


def _between(graph: TensorGraph, earlier: int, later: int) -> set[int]:
    """The operations that read what one returned, directly or not, and that another one reads; the later one included."""
    return {later} | {
        operation for operation in graph.ancestors(later, earlier + 1) if graph.depends(operation, {earlier}, earlier)
    }
