"""Modules that run once per time step: found in the calls of a pass, and told from a network that ties its depth's weights.

Both call one module again on what it returned. Time brings something new to every call; depth brings nothing, or the same again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headwater.analysis.tensor_graph import TensorGraph
from headwater.recording import Call, Operation, Recording, SignalKind, computed_once

LEAST_CALLS = 5  # fewer say nothing about a rate
_GATED = ("LSTM", "GRU")
_GATES = ("sigmoid", "sigmoid_", "hardsigmoid")
JOINING = ("cat", "concat", "concatenate", "hstack")
_TAKING_APART = ("unbind", "split", "chunk", "tensor_split", "__iter__")  # once, for all the steps
_CELLS = ("RNNCell", "LSTMCell", "GRUCell")  # whose name says it, whatever they read


@dataclass(frozen=True, slots=True)
class TimeLoop:
    """A module that one caller calls again and again, each time on its own state and something new.

    Args:
        calls: in the order of time.
        states: of each call, the numbers of the tensors that the next one reads, directly or through operations.
        per_step: the modules that run about once per call, this one and those inside of it included.
        has_gates: sigmoids decide at each step what is kept.
    """

    calls: tuple[Call, ...]
    states: tuple[tuple[int, ...], ...]
    per_step: frozenset[str]
    has_gates: bool


@computed_once
def time_loops(recording: Recording) -> Sequence[TimeLoop]:
    """The loops over time of a recording, in execution order.

    >>> from headwater.recording import RecordingBuilder
    >>> time_loops(RecordingBuilder().build())
    ()
    """
    if len(recording.calls) < LEAST_CALLS:
        return ()
    owners = _with_ancestors({p.module for p in recording.parameters if p.requires_grad})
    graph: TensorGraph | None = None  # most recordings need none
    found: list[TimeLoop] = []
    callers = [-1, *(call.depth for call in recording.calls)]
    for caller in callers:
        calls_of: dict[str, list[Call]] = {}
        for depth in recording.children(caller):
            calls_of.setdefault(recording.calls[depth].module, []).append(recording.calls[depth])
        for module, calls in calls_of.items():
            if len(calls) >= LEAST_CALLS and module in owners:
                graph = graph or TensorGraph(recording)
                found += _loops(recording, graph, calls)
    return tuple(found)


def _with_ancestors(modules: set[str]) -> set[str]:
    found = {""}
    for module in modules:
        parts = module.split(".")
        found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return found


def _loops(recording: Recording, graph: TensorGraph, calls: Sequence[Call]) -> Iterator[TimeLoop]:
    """The calls of one module by one caller, cut where a state is not handed on (truncated backpropagation detaches it)."""
    chain, states = [calls[0]], []
    for earlier, later in pairwise(calls):
        returned = graph.outputs(earlier)
        direct = graph.handed_on(earlier, later)
        if not direct and not graph.feeds(earlier, later):
            yield from _loop(recording, graph, chain, states)
            chain, states = [], []
        else:
            states.append(direct or tuple(returned))
        chain.append(later)
    yield from _loop(recording, graph, chain, states)


def _loop(
    recording: Recording, graph: TensorGraph, calls: Sequence[Call], states: Sequence[tuple[int, ...]]
) -> Iterator[TimeLoop]:
    if len(calls) < LEAST_CALLS:
        return
    is_cell = calls[0].module_type in _CELLS
    if is_cell or _reads_something_new(recording, graph, calls, _steps(recording, calls)):
        last = _like(recording, graph, calls, states[-1])
        per_step = frozenset(_per_step(recording, calls))
        yield TimeLoop(tuple(calls), (*states, last), per_step, _has_gates(recording, graph, calls))


def _like(recording: Recording, graph: TensorGraph, calls: Sequence[Call], states: tuple[int, ...]) -> tuple[int, ...]:
    """The outputs of the last call that stand where the state stood in the call before."""
    before = recording.select(SignalKind.ACTIVATION, depth=calls[-2].depth)
    paths = {signal.item for signal in before if signal.tensor in states}
    last = recording.select(SignalKind.ACTIVATION, depth=calls[-1].depth)
    return tuple(signal.tensor for signal in last if signal.item in paths) or tuple(graph.outputs(calls[-1]))


def _steps(recording: Recording, calls: Sequence[Call]) -> list[list[Call]]:
    """For each call but the first, the calls of the same caller since the one before, itself included."""
    siblings = recording.children(calls[0].parent)
    places = [bisect_right(siblings, call.depth) for call in calls]
    return [[recording.calls[depth] for depth in siblings[begin:end]] for begin, end in pairwise(places)]


def _reads_something_new(
    recording: Recording, graph: TensorGraph, calls: Sequence[Call], steps: Sequence[Sequence[Call]]
) -> bool:
    """Whether some module reads, at most steps, a tensor that the loop did not make and that it has not read before."""
    own = [tensor for call in calls for tensor in graph.outputs(call)]
    made_here = graph.descendants(graph.makers(own))
    returned = {tensor for step in steps for call in step for tensor in graph.outputs(call)} | set(own)
    read: dict[str, set[int]] = {}
    num_made: dict[str, int] = {}  # of what was read, in the loop by operations of no module
    for step in steps:
        for call in step:
            read.setdefault(call.module, set()).update(t for t in graph.inputs(call) if t not in returned)
            others = graph.read_by(call) - graph.makers(returned.intersection(graph.inputs(call)))
            made = len(others & made_here)
            num_made[call.module] = num_made.get(call.module, 0) + made
    is_new = any(2 * (len(tensors) - num_made[module]) > len(steps) for module, tensors in read.items())
    return is_new or _joins_something(recording, graph, calls, made_here)


def _joins_something(recording: Recording, graph: TensorGraph, calls: Sequence[Call], made_here: set[int]) -> bool:
    """Whether the calls read cat([x_t, h]): what is joined to the state is another tensor each time, or data without a gradient.

    Such data left no mark of its own: then the state is all that is known of what was joined.
    """
    joined: list[set[int]] = []
    for call in calls[-2:]:
        joins = [one for one in graph.read_by(call) if recording.operations[one].name.rpartition(".")[2] in JOINING]
        parts = [graph.producers(operation) for operation in joins]
        if any(len(part) == 1 for part in parts):
            return True
        joined.append({p for part in parts for p in part} - made_here)
    takes_apart = any(recording.operations[p].name.rpartition(".")[2] in _TAKING_APART for p in joined[-1])
    return bool(joined[-1]) and (takes_apart or joined[0] != joined[-1])


def _has_gates(recording: Recording, graph: TensorGraph, calls: Sequence[Call]) -> bool:
    """Whether the type's name says so, or a sigmoid runs at most steps."""
    if any(kind in calls[0].module_type for kind in _GATED):
        return True
    first, last = (graph.makers(graph.outputs(call)) for call in (calls[0], calls[-1]))
    if not first or not last:
        return False
    return decides_by_sigmoids(recording.operations[min(first) : max(last) + 1], len(calls))


def decides_by_sigmoids(operations: Sequence[Operation], num_steps: int) -> bool:
    """Whether a sigmoid runs at half of the steps or more.

    >>> decides_by_sigmoids((), 5)
    False
    """
    return 2 * sum(operation.name.rpartition(".")[2].lower() in _GATES for operation in operations) >= num_steps


def _per_step(recording: Recording, calls: Sequence[Call]) -> Iterator[str]:
    """The modules that ran at half of the steps or more, wherever they were called from."""
    counts: dict[str, int] = {}
    for call in recording.calls[calls[0].depth : calls[-1].depth]:
        counts[call.module] = counts.get(call.module, 0) + 1
    yield from (module for module, count in counts.items() if 2 * count >= len(calls) - 1)
