"""Layers of functional code: operations that multiply by a parameter where no module of its own does (`x @ self.weight`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from headwater.analysis.causes import Cause, cause_of
from headwater.analysis.gain import cotangent
from headwater.analysis.gradient_path import Layer, trainable_layers
from headwater.analysis.operation_path import log_ratio
from headwater.analysis.streams import stream_decades
from headwater.recording import Call, Recording, Series, SignalKind, computed_once

_READERS = "operations_that_read"  # see headwater.capture.operation_assembly


@computed_once
def weight_layers(recording: Recording) -> Sequence[Layer]:
    """The trainable layers, whether they are modules or operations of functional code, in execution order.

    Functional layers are known where lines were traced. A parameter that several operations read (a recurrent weight) is one layer
    whose gradient is that of all of them together: time is not depth. A call that is several such layers is none itself.

    >>> from headwater.recording import RecordingBuilder
    >>> weight_layers(RecordingBuilder().build())
    ()
    """
    modules, readers = trainable_layers(recording), parameter_readers(recording)
    if not readers:
        return modules
    found = [layer for layer in map(_layer_of(recording), readers) if layer is not None]
    functional = {layer.call.depth for layer in found}
    rest = [layer for layer in modules if layer.call.depth not in functional]
    return tuple(sorted([*rest, *found], key=lambda layer: position_of(recording, layer)))


@computed_once
def parameter_readers(recording: Recording) -> Sequence[Series]:
    """For each trainable matrix that functional code reads, the indices of the operations that read it; known where lines were traced.

    >>> from headwater.recording import RecordingBuilder
    >>> parameter_readers(RecordingBuilder().build())
    ()
    """
    readers = recording.series(_READERS)
    if not readers or not recording.operations:
        return ()
    trained = {
        (parameter.module, parameter.name.rpartition(".")[2])
        for parameter in recording.parameters
        if parameter.requires_grad and len(parameter.shape) > 1
    }
    return tuple(series for series in readers if (series.module, series.item) in trained)


def _layer_of(recording: Recording) -> Callable[[Series], Layer | None]:
    """A function from the operations that read a parameter to the layer they are; None where they are no products."""
    reference, streams = cotangent(recording), stream_decades(recording)

    def layer(readers: Series) -> Layer | None:
        operations = [recording.operations[int(index)] for index in readers.values]
        measured = [o for o in operations if cause_of(o.name) is Cause.WEIGHTS and not math.isnan(o.gradient_norm)]
        if reference is None or not measured or measured[0].depth < 0:
            return None
        norm = math.hypot(*(operation.gradient_norm for operation in measured))
        stream = max(streams[operation.depth][1] for operation in measured)
        call = recording.calls[measured[0].depth]
        return Layer(call, round(log_ratio(norm, reference.norm), 12), norm, stream, measured[0].index)

    return layer


def position_of(recording: Recording, layer: Layer) -> tuple[int, int]:
    """Where a layer stands: the index of the operation that made what it returned, and its depth."""
    if layer.operation is not None:
        return layer.operation, layer.call.depth
    return position_of_call(recording, layer.call)


def position_of_call(recording: Recording, call: Call) -> tuple[int, int]:
    """Index of the operation that made what the call returned; where none is known, of the last one in a call before it."""
    made_by = recording.operation_by_tensor
    known = [
        made_by[s.tensor] for s in recording.select(SignalKind.ACTIVATION, depth=call.depth) if s.tensor in made_by
    ]
    if known:
        return max(known), call.depth
    depths = recording.operation_table["depth"]
    before = np.flatnonzero((depths >= 0) & (depths < call.depth))
    return (int(before[-1]) if len(before) else -1), call.depth
