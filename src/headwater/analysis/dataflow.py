"""Which call reads what which call returned, by the numbers of the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headwater.recording import Recording, SignalKind, computed_once


@dataclass(frozen=True, slots=True)
class Dataflow:
    """The tensors of a recording, as far as modules hand them on. Operations of no module make new, unknown tensors.

    Args:
        inputs: for each call, the tensors it reads.
        outputs: for each call, the tensors it returns.
        readers: for each tensor, the depths of the calls that read it, in execution order.
        producers: for each tensor, the depths of the calls that return it, in execution order.
        next_siblings: for each call, the depth of the next call that the same caller made; -1 for the last.
    """

    inputs: Sequence[tuple[int, ...]]
    outputs: Sequence[tuple[int, ...]]
    readers: Mapping[int, Sequence[int]]
    producers: Mapping[int, Sequence[int]]
    next_siblings: Sequence[int]

    def first_reader(self, tensor: int) -> int:
        """Depth of the first call that reads the tensor; -1 if none does."""
        return next(iter(self.readers.get(tensor, ())), -1)

    def is_read(self, depth: int) -> bool:
        """Whether another call reads what the call returns."""
        return any(reader != depth for tensor in self.outputs[depth] for reader in self.readers.get(tensor, ()))


@computed_once
def dataflow(recording: Recording) -> Dataflow:
    """The dataflow of a recording, in time linear in its signals.

    >>> from headwater.recording import RecordingBuilder, TensorStats
    >>> builder = RecordingBuilder()
    >>> one = TensorStats.from_values([1.0])
    >>> for name in ("0", "1"):
    ...     module, depth = builder.add_module(name, "Tanh"), builder.add_call(int(name))
    ...     _ = builder.add_signal(module, SignalKind.INPUT, one, depth=depth, tensor=depth)
    ...     _ = builder.add_signal(module, SignalKind.ACTIVATION, one, depth=depth, tensor=depth + 1)
    >>> flow = dataflow(builder.build())
    >>> flow.readers, flow.producers, flow.is_read(0), flow.is_read(1)
    ({0: [0], 1: [1]}, {1: [0], 2: [1]}, True, False)
    """
    inputs, readers = _by_call_and_tensor(recording, SignalKind.INPUT)
    outputs, producers = _by_call_and_tensor(recording, SignalKind.ACTIVATION)
    next_siblings = [-1] * len(recording.calls)
    latest: dict[int, int] = {}
    for call in recording.calls:
        if call.parent in latest:
            next_siblings[latest[call.parent]] = call.depth
        latest[call.parent] = call.depth
    return Dataflow(inputs, outputs, readers, producers, next_siblings)


def _by_call_and_tensor(recording: Recording, kind: SignalKind) -> tuple[list[tuple[int, ...]], dict[int, list[int]]]:
    of_call: list[tuple[int, ...]] = [()] * len(recording.calls)
    of_tensor: dict[int, set[int]] = {}
    for signal in recording.select(kind):
        of_call[signal.depth] += (signal.tensor,)
        of_tensor.setdefault(signal.tensor, set()).add(signal.depth)
    return of_call, {tensor: sorted(depths) for tensor, depths in of_tensor.items()}
