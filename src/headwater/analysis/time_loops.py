"""Modules that run once per time step: found in the calls of a pass, and told from a network that ties its depth's weights.

Both call one module again on what it returned. Time brings something new to every call; depth brings nothing, or the same again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from headwater.recording import Call, Recording, SignalKind, computed_once

LEAST_CALLS = 5  # fewer say nothing about a rate
_GATED = ("LSTM", "GRU")
_GATES = ("sigmoid", "sigmoid_", "hardsigmoid")
_JOINING = ("cat", "concat", "concatenate", "hstack")
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
    graph: _Graph | None = None  # most recordings need none
    found: list[TimeLoop] = []
    callers = [-1, *(call.depth for call in recording.calls)]
    for caller in callers:
        calls_of: dict[str, list[Call]] = {}
        for depth in recording.children(caller):
            calls_of.setdefault(recording.calls[depth].module, []).append(recording.calls[depth])
        for module, calls in calls_of.items():
            if len(calls) >= LEAST_CALLS and module in owners:
                graph = graph or _Graph(recording)
                found += _loops(recording, graph, calls)
    return tuple(found)


def _with_ancestors(modules: set[str]) -> set[str]:
    found = {""}
    for module in modules:
        parts = module.split(".")
        found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return found


class _Graph:
    """Who made what, from what; operations are known where lines were traced."""

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


def _loops(recording: Recording, graph: _Graph, calls: Sequence[Call]) -> Iterator[TimeLoop]:
    """The calls of one module by one caller, cut where a state is not handed on (truncated backpropagation detaches it)."""
    chain, states = [calls[0]], []
    for earlier, later in pairwise(calls):
        returned, read = graph.outputs(earlier), graph.inputs(later)
        direct = tuple(tensor for tensor in returned if tensor in read)
        if not direct and not _feeds(graph, returned, later):
            yield from _loop(recording, graph, chain, states)
            chain, states = [], []
        else:
            states.append(direct or tuple(returned))
        chain.append(later)
    yield from _loop(recording, graph, chain, states)


def _loop(
    recording: Recording, graph: _Graph, calls: Sequence[Call], states: Sequence[tuple[int, ...]]
) -> Iterator[TimeLoop]:
    if len(calls) < LEAST_CALLS:
        return
    is_cell = calls[0].module_type in _CELLS
    if is_cell or _reads_something_new(recording, graph, calls, _steps(recording, calls)):
        last = _like(recording, graph, calls, states[-1])
        per_step = frozenset(_per_step(recording, calls))
        yield TimeLoop(tuple(calls), (*states, last), per_step, _has_gates(recording, graph, calls))


def _feeds(graph: _Graph, returned: Sequence[int], later: Call) -> bool:
    goals = graph.makers(returned)
    return bool(goals) and any(graph.depends(operation, goals, min(goals)) for operation in graph.read_by(later))


def _like(recording: Recording, graph: _Graph, calls: Sequence[Call], states: tuple[int, ...]) -> tuple[int, ...]:
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
    recording: Recording, graph: _Graph, calls: Sequence[Call], steps: Sequence[Sequence[Call]]
) -> bool:
    """Whether some module reads, at most steps, a tensor that the loop did not make and that it has not read before."""
    own = [tensor for call in calls for tensor in graph.outputs(call)]
    goals = graph.makers(own)
    oldest = min(goals, default=0)
    returned = {tensor for step in steps for call in step for tensor in graph.outputs(call)} | set(own)
    read: dict[str, set[int]] = {}
    num_made: dict[str, int] = {}  # of what was read, in the loop by operations of no module
    for step in steps:
        for call in step:
            read.setdefault(call.module, set()).update(t for t in graph.inputs(call) if t not in returned)
            others = graph.read_by(call) - graph.makers(returned.intersection(graph.inputs(call)))
            made = sum(graph.depends(operation, goals, oldest) for operation in others)
            num_made[call.module] = num_made.get(call.module, 0) + made
    is_new = any(2 * (len(tensors) - num_made[module]) > len(steps) for module, tensors in read.items())
    return is_new or _joins_something(recording, graph, calls, goals, oldest)


def _joins_something(recording: Recording, graph: _Graph, calls: Sequence[Call], goals: set[int], oldest: int) -> bool:
    """Whether the calls read cat([x_t, h]): what is joined to the state is another tensor each time, or data without a gradient.

    Such data left no mark of its own: then the state is all that is known of what was joined.
    """
    joined: list[set[int]] = []
    for call in calls[-2:]:
        joins = [one for one in graph.read_by(call) if recording.operations[one].name.rpartition(".")[2] in _JOINING]
        parts = [graph.producers(operation) for operation in joins]
        if any(len(part) == 1 for part in parts):
            return True
        joined.append({p for part in parts for p in part if not graph.depends(p, goals, oldest)})
    takes_apart = any(recording.operations[p].name.rpartition(".")[2] in _TAKING_APART for p in joined[-1])
    return bool(joined[-1]) and (takes_apart or joined[0] != joined[-1])


def _has_gates(recording: Recording, graph: _Graph, calls: Sequence[Call]) -> bool:
    """Whether the type's name says so, or a sigmoid runs at most steps."""
    if any(kind in calls[0].module_type for kind in _GATED):
        return True
    first, last = (graph.makers(graph.outputs(call)) for call in (calls[0], calls[-1]))
    if not first or not last:
        return False
    within = recording.operations[min(first) : max(last) + 1]
    num_sigmoids = sum(operation.name.rpartition(".")[2].lower() in _GATES for operation in within)
    return 2 * num_sigmoids >= len(calls)


def _per_step(recording: Recording, calls: Sequence[Call]) -> Iterator[str]:
    """The modules that ran at half of the steps or more, wherever they were called from."""
    counts: dict[str, int] = {}
    for call in recording.calls[calls[0].depth : calls[-1].depth]:
        counts[call.module] = counts.get(call.module, 0) + 1
    yield from (module for module, count in counts.items() if 2 * count >= len(calls) - 1)
