"""Recognises stacks of like layers on the gradient's way: weights, activation and perhaps a norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwater.analysis.causes import Cause
from headwater.analysis.layer_facts import Weights, activation_of, weights_of
from headwater.analysis.waterfall import Waterfall, WaterfallStep
from headwater.recording import Recording
from headwater.theory.activations import LINEAR, Activation

_LAYER_NORMS = ("layernorm", "rmsnorm", "layer_norm", "rms_norm")
_BATCH_NORMS = ("batchnorm1d", "batchnorm2d", "batchnorm3d", "batch_norm")


@dataclass(frozen=True, slots=True)
class StackLayer:
    """Weights, and the activation (and a norm before or after it) whose output they read.

    Args:
        activation: before the weights, in the forward direction.
        normalisation: "", "LayerNorm" (also RMSNorm) or "BatchNorm".
        weights: as they are.
        decades: of the gradient over both.
        module: that owns the weights.
        before: the module whose output the activation reads.
    """

    activation: Activation
    normalisation: str
    weights: Weights
    decades: float
    module: str
    before: str


def longest_stack(recording: Recording, way: Waterfall) -> list[StackLayer]:
    """The longest run of layers of one kind, in the gradient's order; empty without any.

    >>> from headwater.recording import RecordingBuilder
    >>> longest_stack(RecordingBuilder().build(), Waterfall((), ""))
    []
    """
    return max(_stacks(recording, way), key=len, default=[])


def _stacks(recording: Recording, way: Waterfall) -> Iterator[list[StackLayer]]:
    current: list[StackLayer] = []
    for layer in _layers(recording, way):
        if current and layer is not None and _kind(layer) == _kind(current[0]):
            current.append(layer)
            continue
        if current:
            yield current
        current = [layer] if layer is not None else []
    if current:
        yield current


def _kind(layer: StackLayer) -> tuple[str, str]:
    return layer.activation.name, layer.normalisation


def _layers(recording: Recording, way: Waterfall) -> Iterator[StackLayer | None]:
    """Each group of weights and the activation before them; None where the pattern breaks."""
    group: list[WaterfallStep] = []
    for step in way.steps:
        if step.cause is Cause.WEIGHTS:
            if group:
                yield _layer(recording, group, step.module)
            group = [step]
        elif group:
            group.append(step)
        elif step.cause is not Cause.LOSS:
            yield None
    if group:
        yield _layer(recording, group, way.module)


def _layer(recording: Recording, group: Sequence[WaterfallStep], before: str) -> StackLayer | None:
    weights, *rest = group
    found = weights_of(recording, weights.module)
    activation, normalisation = None, ""
    for step in rest:
        name = step.operation.rpartition(".")[2].lower()
        if step.cause is Cause.ACTIVATION and activation is None:
            activation = activation_of(recording, step.operation, step.module)
            if activation is None:
                return None
        elif name in (*_LAYER_NORMS, *_BATCH_NORMS) and not normalisation:
            normalisation = "LayerNorm" if name in _LAYER_NORMS else "BatchNorm"
        # A view is nothing; anything else is no part of such a layer, nor is a shortcut whose branch is still zero.
        elif step.cause is Cause.SHORTCUT or abs(step.decades) > 1e-6:
            return None
    if found is None:
        return None
    activation = LINEAR if activation is None else activation
    decades = math.fsum(step.decades for step in group)
    return StackLayer(activation, normalisation, found, decades, weights.module, before)
