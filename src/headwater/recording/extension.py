"""What probes find out after the pass, added to its recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.recording.builder import RecordingBuilder
from headwater.recording.recording import Recording
from headwater.recording.signal import SignalKind
from headwater.recording.tables import Series, SourceLine
from headwater.recording.tensor_stats import TensorStats


@dataclass(frozen=True, slots=True)
class Update:
    """What the optimiser's next step would do to one parameter.

    Args:
        parameter: full name, as in `named_parameters()`.
        stats: of the new values minus the old ones, in their dtype: exactly zero where rounding leaves a weight as it was.
    """

    parameter: str
    stats: TensorStats


@dataclass(frozen=True, slots=True)
class NonFiniteOperation:
    """An operation of the forward pass that returned a NaN or an infinity before any other did.

    Args:
        name: the torch function.
        line: of the user's code; None where it is not known.
        depth: of the innermost call it ran in; -1 outside of the model.
    """

    name: str
    line: SourceLine | None
    depth: int


def extended(
    recording: Recording,
    *,
    series: Sequence[Series] = (),
    updates: Sequence[Update] = (),
    culprits: Sequence[NonFiniteOperation] = (),
) -> Recording:
    """The recording with more series, updates of its parameters, and operations; the given one stays as it is.

    Raises:
        KeyError: a series names a module, or an update a parameter, that the recording does not have.

    >>> import numpy as np
    >>> from headwater.recording import Combine
    >>> builder = RecordingBuilder()
    >>> root = builder.add_module("", "Linear")
    >>> more = Series("signal_to_noise", "", -1, "weight", Combine.MINIMUM, np.array([0.5]))
    >>> extended(builder.build(), series=[more]).series("signal_to_noise")[0].values
    array([0.5])
    """
    if not (series or updates or culprits):
        return recording
    builder = RecordingBuilder.continuing(recording)
    index_of = {name: index for index, name in enumerate(recording.module_names)}
    owners = {parameter.name: parameter for parameter in recording.parameters}
    first_depths: dict[str, int] = {}
    for call in recording.calls:
        first_depths.setdefault(call.module, call.depth)
    for update in updates:
        owner = owners[update.parameter]
        builder.add_signal(
            index_of[owner.module],
            SignalKind.UPDATE,
            update.stats,
            depth=first_depths.get(owner.module, -1),
            item=update.parameter.rpartition(".")[2],
            shape=owner.shape,
            dtype=owner.dtype,
        )
    for one in series:
        module = index_of[one.module]
        builder.add_series(one.name, one.values, module=module, depth=one.depth, item=one.item, combine=one.combine)
    for culprit in culprits:
        builder.add_operation(culprit.name, line=culprit.line, depth=culprit.depth, is_finite=False, is_cut=True)
    return builder.build(recording.context)
