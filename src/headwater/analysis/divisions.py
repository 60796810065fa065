"""Operations of functional code that divide by what is itself computed, and what that does to the gradient."""

from __future__ import annotations

import math

from headwater.analysis.causes import Cause, cause_of, is_product
from headwater.analysis.operation_path import OperationFlow, log_ratio
from headwater.recording import Operation

_RECIPROCALS = ("rdiv", "rtruediv", "reciprocal", "rsqrt", "pow", "float_power")


def division_gain_decades(flow: OperationFlow, operation: Operation, *, near_zero_decades: float) -> float:
    """log10 of the gradient that a norm or a division sends to what it divides / what arrives; nan for another operation.

    What it sends to the divisor, or to a factor, may be as large without any division by something small: it is summed over all
    entries that share the factor (a gain for each image, a temperature).

    Args:
        flow: of the recording.
        operation: of functional code.
        near_zero_decades: gain of a reciprocal from which it is one of something near zero.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> first, second = (builder.add_operation("torch.tanh", gradient_norm=norm) for norm in (1e5, 1e7))
    >>> last = builder.add_operation("torch.div", gradient_norm=1.0)
    >>> builder.add_operation_edge(last, first, 1e5)
    >>> builder.add_operation_edge(last, second, 1e7)
    >>> recording = builder.build()
    >>> round(division_gain_decades(OperationFlow(recording), recording.operations[last], near_zero_decades=4.0), 6)
    5.0
    """
    edges = flow.producers[operation.index]
    if cause_of(operation.name) is Cause.NORMALISATION:
        return flow.gain_decades(operation)
    if not is_product(operation.name) or len(edges) < 2:
        return math.nan
    if "div" in operation.name:
        divided = edges[:1]  # the edges are in the order of the arguments
    else:
        is_small = [_is_of_something_small(flow, edge.producer, near_zero_decades) for edge in edges]
        divided = [edge for edge, small in zip(edges, is_small, strict=True) if not small] if any(is_small) else []
    known = [norm for norm in map(flow.sent_norm, divided) if not math.isnan(norm)]
    return log_ratio(max(known, default=math.nan), operation.gradient_norm)


def _is_of_something_small(flow: OperationFlow, index: int, near_zero_decades: float) -> bool:
    """Whether an operation is the reciprocal of something near zero, in another shape or times something else perhaps."""
    waiting, seen = [index], {index}
    while waiting:
        operation = flow.operations[waiting.pop()]
        if operation.name.rpartition(".")[2].strip("_") in _RECIPROCALS:
            if flow.gain_decades(operation) >= near_zero_decades:
                return True
        elif cause_of(operation.name) is Cause.RESHAPING or is_product(operation.name):
            before = {edge.producer for edge in flow.producers[operation.index]} - seen
            seen |= before
            waiting += before
    return False
