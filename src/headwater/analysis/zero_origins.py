"""Where gradients become exactly zero: the calls that pass nothing on, and the places between calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headwater.analysis.dataflow import Dataflow
from headwater.analysis.parametrizations import is_leaf
from headwater.recording import Call, Recording, SignalKind

# How many calls beside one (experts that read the same) are passed over in search of the one that reads its output.
_MAX_SIBLINGS = 256


@dataclass(frozen=True, slots=True)
class ZeroOrigin:
    """One place where the gradient becomes exactly zero.

    Args:
        depth: of the call that passes nothing on; or of the call after which an operation of no module does it.
        is_after: the second of the two.
    """

    depth: int
    is_after: bool


def zero_origins(recording: Recording, flow: Dataflow) -> list[ZeroOrigin]:
    """The places, in execution order, where a gradient that is not zero becomes exactly zero.

    >>> from headwater.analysis.dataflow import dataflow
    >>> from headwater.recording import RecordingBuilder
    >>> recording = RecordingBuilder().build()
    >>> zero_origins(recording, dataflow(recording))
    []
    """
    found = set(_Search(recording, flow).origins())
    return sorted(found, key=lambda origin: (origin.depth, origin.is_after))


class _Search:
    def __init__(self, recording: Recording, flow: Dataflow) -> None:
        self._recording = recording
        self._flow = flow
        self._is_zero = _zero_by_call(recording, SignalKind.ACTIVATION_GRADIENT)
        self._sends_zero = _zero_by_call(recording, SignalKind.INPUT_GRADIENT)
        self._share_is_zero = {
            (signal.depth, signal.tensor): signal.stats.is_zero
            for signal in recording.select(SignalKind.INPUT_GRADIENT)
        }

    def origins(self) -> Iterator[ZeroOrigin]:
        for call in self._recording.calls:
            depth = call.depth
            if self._is_zero[depth]:
                yield from self._behind(depth)
            elif self._is_zero[depth] is False and self._sends_zero[depth] and self._ends_here(call):
                yield ZeroOrigin(depth, is_after=False)

    def _ends_here(self, call: Call) -> bool:
        """Whether none of the calls it makes is nearer to the reason; one that computes a weight may be a place of its own."""
        return not self._recording.children(call.depth) or is_leaf(self._recording, call)

    def _behind(self, depth: int) -> Iterator[ZeroOrigin]:
        """What makes the gradient zero that arrives at a call, unless a later call has it zero already."""
        readers = {
            reader
            for tensor in self._flow.outputs[depth]
            for reader in self._flow.readers.get(tensor, ())
            if reader != depth and (reader, tensor) in self._share_is_zero
        }
        if readers:
            yield from (ZeroOrigin(reader, is_after=False) for reader in readers if self._turns_zero(reader, depth))
        elif not self._is_zero_further_on(depth):
            yield ZeroOrigin(depth, is_after=True)

    def _turns_zero(self, reader: int, depth: int) -> bool:
        """The reader gets a gradient and returns none, and none of the calls it makes is nearer to the reason."""
        if self._is_zero[reader] is not False:
            return False
        read = set(self._flow.outputs[depth])
        children = self._recording.children(reader)
        return not any(self._is_zero[child] or read.intersection(self._flow.inputs[child]) for child in children)

    def _is_zero_further_on(self, depth: int) -> bool:
        """Whether the next call, or else the caller, whose output this call's output goes into, has a zero gradient.

        For outputs that no call reads as they are: an operation of no module stands between.
        """
        parent = self._recording.calls[depth].parent
        known = {*self._flow.inputs[depth], *(self._flow.inputs[parent] if parent >= 0 else ())}
        following = self._flow.next_siblings[depth]
        for _ in range(_MAX_SIBLINGS):
            if following < 0:
                return parent >= 0 and bool(self._is_zero[parent])
            if self._reads_something_new(following, known):
                return bool(self._is_zero[following] or self._sends_zero[following])
            following = self._flow.next_siblings[following]
        return False

    def _reads_something_new(self, depth: int, known: set[int]) -> bool:
        """Whether a call reads a tensor that no call returned and none has read before it."""
        read = self._flow.inputs[depth]
        if any(tensor in self._flow.producers for tensor in read):
            return False
        return any(tensor not in known and self._flow.first_reader(tensor) == depth for tensor in read)


def _zero_by_call(recording: Recording, kind: SignalKind) -> list[bool | None]:
    """For each call whether all gradients of a kind are zero; None where there is none."""
    found: list[bool | None] = [None] * len(recording.calls)
    for signal in recording.select(kind):
        if signal.stats.numel:
            found[signal.depth] = signal.stats.is_zero and found[signal.depth] is not False
    return found
