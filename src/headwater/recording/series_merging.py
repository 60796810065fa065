"""The series of two recordings as those of one."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from headwater.recording.builder import RecordingBuilder
from headwater.recording.operation_merging import OF_OPERATIONS, have_the_same_operations
from headwater.recording.recording import Recording
from headwater.recording.tables import Combine, Series

_COMBINERS: dict[Combine, tuple[np.ufunc, float]] = {  # and what changes nothing
    Combine.SUM: (np.add, 0.0),
    Combine.MINIMUM: (np.minimum, math.inf),
    Combine.MAXIMUM: (np.maximum, -math.inf),
}


def add_series(builder: RecordingBuilder, a: Recording, b: Recording, index_of: dict[str, int]) -> None:
    """Adds the series of both recordings, each combined as it says; without those about operations where these differ.

    Args:
        builder: of the merged recording.
        a: one recording.
        b: the other.
        index_of: the merged recording's modules by name.
    """
    left_out = () if have_the_same_operations(a, b) else OF_OPERATIONS
    grouped: tuple[dict[tuple, list[Series]], ...] = ({}, {})
    for recording, series_of in zip((a, b), grouped, strict=True):
        for series in recording.all_series:
            if series.name in left_out:
                continue
            key = (series.depth, index_of[series.module], series.name, series.item, series.combine)
            series_of.setdefault(key, []).append(series)
    for key in sorted({**grouped[0], **grouped[1]}):
        depth, module, name, item, combine = key
        values = reduce(
            lambda x, y, combine=combine: _combined(x, y, combine),
            (series.values for series_of in grouped for series in series_of.get(key, ())),
        )
        builder.add_series(name, values, module=module, depth=depth, item=item, combine=combine)


def _combined(a: np.ndarray, b: np.ndarray, combine: Combine) -> np.ndarray:
    function, neutral = _COMBINERS[combine]
    length = max(len(a), len(b))
    padded = [np.pad(values, (0, length - len(values)), constant_values=neutral) for values in (a, b)]
    with np.errstate(over="ignore", invalid="ignore"):  # the infinite and the undefined stay what they are
        return function(*padded)
