"""Parameters that are all zeros and wait for each other: each gets its gradient through the other one, so neither ever gets any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headwater.analysis.causes import Cause, cause_of, is_product
from headwater.analysis.operation_path import OperationFlow, operation_flow
from headwater.recording import Recording, SignalKind, computed_once

_PRODUCTS = (Cause.WEIGHTS, Cause.ATTENTION)
_STEPS_TO_GRADIENT = "num_steps_to_gradient"  # see headwater.capture.look_ahead
_READERS = "operations_that_read"  # see headwater.capture.operation_assembly


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Parameters without a gradient whose product is what gets one.

    Args:
        operation: index of the first product.
        parameters: full names, at least two.
        is_passed: whether operations that do not read what it returns get a gradient, by another way.
    """

    operation: int
    parameters: tuple[str, ...]
    is_passed: bool


@computed_once
def deadlocks(recording: Recording) -> Sequence[Deadlock]:
    """The products of two zeros that stay zero, in execution order; known where lines were traced.

    The derivative of a product with respect to one factor is the other factor. Where both come of parameters that are all zeros
    (query and key of an attention, both matrices of an adapter), neither moves.

    >>> from headwater.recording import RecordingBuilder
    >>> deadlocks(RecordingBuilder().build())
    ()
    """
    stuck = _stuck_parameters(recording)
    if len(stuck) < 2 or not recording.operations:
        return ()
    flow, entering = operation_flow(recording), _entering(recording, stuck)
    found: list[Deadlock] = []
    for operation in flow.operations:
        index = operation.index
        if operation.is_cut or not _is_product_of_zeros(flow, index, num_own=len(entering.get(index, ()))):
            continue
        parameters = tuple(
            dict.fromkeys(name for one in _without_gradient(flow, index) for name in entering.get(one, ()))
        )
        if len(parameters) > 1:
            _add(found, Deadlock(index, parameters, _is_passed(flow, index)))
    return tuple(found)


def _add(found: list[Deadlock], new: Deadlock) -> None:
    """Adds a deadlock, or its parameters to an earlier one that shares some with it."""
    for i, earlier in enumerate(found):
        if not set(earlier.parameters).isdisjoint(new.parameters):
            both = tuple(dict.fromkeys((*earlier.parameters, *new.parameters)))
            found[i] = replace(earlier, parameters=both)
            return
    found.append(new)


def _stuck_parameters(recording: Recording) -> set[str]:
    """Full names of parameters that are all zeros and get exactly zero, also after the steps that were tried.

    Biases, which multiply nothing, are left out.
    """
    moving = {
        _full_name(series.module, series.item)
        for series in recording.series(_STEPS_TO_GRADIENT)
        if math.isfinite(series.values[0])
    }
    gradients: dict[str, bool] = {}
    for signal in recording.select(SignalKind.WEIGHT_GRADIENT):
        gradients[signal.parameter] = signal.stats.is_zero and gradients.get(signal.parameter, True)
    weights = recording.select(SignalKind.WEIGHT)
    return {
        signal.parameter
        for signal in weights
        if signal.stats.is_zero and gradients.get(signal.parameter) and not signal.item.endswith("bias")
    } - moving


def _full_name(module: str, item: str) -> str:
    return f"{module}.{item}" if module else item


def _entering(recording: Recording, names: set[str]) -> Mapping[int, Sequence[str]]:
    """By operation, the parameters of these that it reads: its module's own, or those that functional code multiplies by there."""
    found: dict[int, list[str]] = {}
    by_module: dict[str, list[str]] = {}
    for name in sorted(names):
        by_module.setdefault(name.rpartition(".")[0], []).append(name)
    functional: set[str] = set()
    for readers in recording.series(_READERS):
        name = _full_name(readers.module, readers.item)
        if name in names:
            functional.add(name)
            for index in map(int, readers.values):
                if _multiplies(recording.operations[index].name):
                    found.setdefault(index, []).append(name)
    for operation in recording.operations:
        if operation.depth >= 0 and not recording.children(operation.depth):
            own = by_module.get(recording.calls[operation.depth].module, ())
            found.setdefault(operation.index, []).extend(name for name in own if name not in functional)
    return found


def _multiplies(name: str) -> bool:
    return cause_of(name) in _PRODUCTS or is_product(name)


def _is_product_of_zeros(flow: OperationFlow, index: int, *, num_own: int) -> bool:
    """Whether it gets a gradient and sends exactly zero to two factors, of which parameters of its own are one.

    Two parameters that come in there have been multiplied before, where no gradient was measured (a weight that is computed).
    """
    operation = flow.operations[index]
    if not operation.gradient_norm > 0.0:
        return False
    if not _multiplies(operation.name):
        return num_own > 1
    num_zero = sum(flow.sent_norm(edge) == 0.0 for edge in flow.producers[index])
    return num_zero + num_own > 1


def _without_gradient(flow: OperationFlow, index: int) -> list[int]:
    """The operation, and those before it that get exactly zero and lead to it."""
    found, seen = [index], {index}
    for one in found:  # grows meanwhile
        before = {
            edge.producer
            for edge in flow.producers[one]
            if flow.sent_norm(edge) == 0.0 and not flow.operations[edge.producer].gradient_norm > 0.0
        } - seen
        seen |= before
        found += sorted(before, reverse=True)
    return found


def _is_passed(flow: OperationFlow, index: int) -> bool:
    if any(one.gradient_norm > 0.0 for one in flow.operations[:index]):  # what ran earlier does not read it
        return True
    behind = flow.readers_of([index])
    return any(one.gradient_norm > 0.0 and one.index not in behind for one in flow.operations)
