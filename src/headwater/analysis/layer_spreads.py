"""How different the samples still are after each layer, whether it is a module or a product in functional code."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from headwater.analysis.functional_layers import position_of_call
from headwater.analysis.functional_signals import functional_signals
from headwater.analysis.gradient_path import leaf_calls
from headwater.analysis.parametrizations import is_leaf, layer_of
from headwater.recording import Call, Operation, Recording

_SPREAD = "relative_spread"  # see headwater.capture.spread


@dataclass(frozen=True, slots=True)
class LayerSpread:
    """The rows of what one layer returns.

    Args:
        call: of the layer, or the one whose forward multiplies by a parameter.
        spread: the root of the share of the energy that differs between rows.
        operation: the product of functional code; None for a module.
    """

    call: Call
    spread: float
    operation: Operation | None = None


def layer_spreads(recording: Recording) -> list[LayerSpread]:
    """Of the layers whose rows were compared, in execution order.

    >>> from headwater.recording import RecordingBuilder
    >>> layer_spreads(RecordingBuilder().build())
    []
    """
    known = {series.depth: math.sqrt(series.values[0]) for series in recording.series(_SPREAD)}
    owners = {layer_of(parameter.module) for parameter in recording.parameters}
    products = [product for product in functional_signals(recording) if product.operation.depth >= 0]
    num_products = Counter(product.operation.depth for product in products)
    found: list[tuple[tuple[int, int], LayerSpread]] = []
    for call in leaf_calls(recording):
        if call.module in owners and call.depth in known and num_products[call.depth] < 2:
            position = position_of_call(recording, call) if products else (0, call.depth)
            found.append((position, LayerSpread(call, known[call.depth])))
    for product in products:
        operation = product.operation
        call = recording.calls[operation.depth]
        if not math.isnan(product.spread) and (num_products[call.depth] > 1 or not is_leaf(recording, call)):
            found.append(((operation.index, call.depth), LayerSpread(call, product.spread, operation)))
    return [layer for _, layer in sorted(found, key=lambda pair: pair[0])]
