"""The forward signal at the layers of functional code (`x @ self.weight`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.analysis.operation_items import operation_items
from headwater.recording import Operation, Recording

_MULTIPLIED, _SPREAD = "multiplied", "relative_spread_of_product"  # see headwater.capture.functional_products


@dataclass(frozen=True, slots=True)
class FunctionalSignal:
    """One product with a parameter.

    Args:
        operation: with its line and innermost call.
        read_rms: of what is multiplied by the parameter; nan for an empty tensor.
        made_rms: of the result.
        spread: the root of the share of the result's energy that differs between its rows; nan where rows were not compared.
    """

    operation: Operation
    read_rms: float
    made_rms: float
    spread: float


def functional_signals(recording: Recording) -> list[FunctionalSignal]:
    """The measured products in execution order; empty where lines were not traced.

    >>> from headwater.recording import RecordingBuilder
    >>> functional_signals(RecordingBuilder().build())
    []
    """
    known = {(series.depth, series.item): series.values for series in recording.series(_MULTIPLIED)}
    if not known:
        return []
    spreads = {(one.depth, one.item): math.sqrt(one.values[0]) for one in recording.series(_SPREAD)}
    found: list[FunctionalSignal] = []
    for operation, item in operation_items(recording):
        values = known.get((operation.depth, item))
        if values is not None:
            read, num_read, made, num_made = values.tolist()
            spread = spreads.get((operation.depth, item), math.nan)
            found.append(FunctionalSignal(operation, _rms(read, num_read), _rms(made, num_made), spread))
    return found


def _rms(energy: float, count: float) -> float:
    return math.sqrt(energy / count) if count > 0.0 else math.nan
