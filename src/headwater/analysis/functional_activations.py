"""Activations that are called as functions: what was measured of them, and where they stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from headwater.analysis.operation_items import operation_items
from headwater.analysis.operation_path import operation_flow
from headwater.analysis.parametrizations import layer_of
from headwater.recording import Operation, Recording, SignalKind


@dataclass(frozen=True, slots=True)
class FunctionalActivation:
    """One call of such a function inside of a module's forward.

    Args:
        operation: with its name, line and innermost call.
        is_last: nothing that trains comes after it on the gradient's way: it is the model's output, or part of a loss.
        num_samples: entries per unit of a rectifier (batch times positions); 0 for what is none.
        minimum, maximum: smallest and largest input of each of its units, shape (num_units,).
        output_rms: of a rectifier.
        mean_derivative: as a part of the largest, averaged; nan for what has no upper plateau.
        input_rms: of what is squashed.
        choice_losses: of a sharp softmax, the loss with its own choice, with none, the mean over choices by lot, their variance, and the
            lowest where all rows choose other entries by one rule; empty where it is not known.
    """

    operation: Operation
    is_last: bool
    num_samples: int
    minimum: np.ndarray
    maximum: np.ndarray
    output_rms: float
    mean_derivative: float
    input_rms: float
    choice_losses: np.ndarray

    def choice_serves_the_loss(self, sigmas: float) -> bool:
        """Whether the loss is lower with the softmax's own choice than with none, than with one by lot, and than by any other rule.

        Args:
            sigmas: standard deviations of the lots' losses that it must lie below their mean.
        """
        if not len(self.choice_losses):
            return False
        own, without, by_lot, variance, by_another_rule = self.choice_losses
        return bool(own < min(without, by_another_rule) and own < by_lot - sigmas * math.sqrt(variance))


def functional_activations(recording: Recording) -> list[FunctionalActivation]:
    """The measured ones in execution order; empty where lines were not traced.

    >>> from headwater.recording import RecordingBuilder
    >>> functional_activations(RecordingBuilder().build())
    []
    """
    if not recording.operations or not recording.all_series:
        return []
    found: list[FunctionalActivation] = []
    known = {(one.depth, one.item, one.name): one.values for one in recording.all_series if one.depth >= 0}
    last, returned = _last_that_trains(recording), _making_the_output(recording)
    for operation, item in operation_items(recording):
        rectified = known.get((operation.depth, item, "rectified"))
        squashed = known.get((operation.depth, item, "squashed"))
        if rectified is None and squashed is None:
            continue
        minimum = known.get((operation.depth, item, "unit_minimum"), np.empty(0))
        maximum = known.get((operation.depth, item, "unit_maximum"), np.empty(0))
        num_samples, energy = (0.0, math.nan) if rectified is None else rectified
        derivative, entries, input_energy, inputs = (math.nan,) * 4 if squashed is None else squashed
        found.append(
            FunctionalActivation(
                operation=operation,
                is_last=operation.index > last
                or (operation.index in returned and not _trains_after(recording, operation)),
                num_samples=int(num_samples),
                minimum=minimum,
                maximum=maximum,
                output_rms=_root_mean(energy, num_samples * len(minimum)),
                mean_derivative=derivative / entries,
                input_rms=_root_mean(input_energy, inputs),
                choice_losses=known.get((operation.depth, item, "loss_with_choices"), np.empty(0)),
            )
        )
    return found


def _root_mean(energy: float, count: float) -> float:
    return math.sqrt(energy / count) if count > 0.0 else math.nan


def _owners(recording: Recording) -> set[str]:
    return {layer_of(parameter.module) for parameter in recording.parameters if parameter.requires_grad}


def _last_that_trains(recording: Recording) -> int:
    """Index of the last operation that ran in a call of a module which owns parameters; -1 without one."""
    owners = _owners(recording)
    return max(
        (o.index for o in recording.operations if o.depth >= 0 and recording.calls[o.depth].module in owners),
        default=-1,
    )


def _trains_after(recording: Recording, operation: Operation) -> bool:
    """Whether what an operation made is also read, directly or not, in a call of a module that owns parameters."""
    owners, flow = _owners(recording), operation_flow(recording)
    readers = flow.readers_of([operation.index]) - {operation.index}
    depths = (flow.operations[reader].depth for reader in readers)
    return any(depth >= 0 and recording.calls[depth].module in owners for depth in depths)


def _making_the_output(recording: Recording) -> set[int]:
    """Indices of the operations that made what the model returns."""
    made_by = recording.operation_by_tensor
    returned = (s for depth in recording.children(-1) for s in recording.select(SignalKind.ACTIVATION, depth=depth))
    return {made_by[signal.tensor] for signal in returned if signal.tensor in made_by}
