"""What a comparison keeps of one recorded pass: a few numbers for each weight layer."""

from __future__ import annotations

import math
from typing import NamedTuple

from headwater.analysis import cotangent, gradient_parts
from headwater.analysis.gain import activation_gradient
from headwater.analysis.gradient_path import Layer, trainable_layers
from headwater.recording import Recording, SignalKind, TensorStats, merged_stats


class LayerMeasurement(NamedTuple):
    """One weight layer in one pass; nan for what was not measured or is not finite.

    Args:
        name: of its module; "name#1" for the second time that a reused module runs.
        gradient_norm: of the activation gradient at the layer's output.
        gradient_mean_abs: of the same.
        input_mean_abs: of what the layer reads.
        weight_gradient_mean_abs: the notebook's number.
        weight_gradient_norm: of the weight alone.
        activation_rms: of what the layer returns.
    """

    name: str
    gradient_norm: float
    gradient_mean_abs: float
    input_mean_abs: float
    weight_gradient_mean_abs: float
    weight_gradient_norm: float
    activation_rms: float


class PassMeasurement(NamedTuple):
    """One forward and backward pass of one network.

    Args:
        layers: in execution order.
        cotangent_norm: of the gradient at the model's output.
        cotangent_mean_abs: of the same: the loss slope.
        loss: nan without one.
        output_rms: of what the model returned.
    """

    layers: tuple[LayerMeasurement, ...]
    cotangent_norm: float
    cotangent_mean_abs: float
    loss: float
    output_rms: float


def pass_measurement(recording: Recording) -> PassMeasurement:
    """The numbers of a recorded pass.

    >>> from headwater.recording import RecordingBuilder
    >>> pass_measurement(RecordingBuilder().build()).layers
    ()
    """
    slope, outputs = cotangent(recording), recording.select(SignalKind.ACTIVATION, depth=0)
    loss = recording.context.loss
    weights = _weights_by_module(recording)
    layers = trainable_layers(recording)
    chosen = [layer for layer in layers if layer.call.module in weights]
    return PassMeasurement(
        layers=tuple(_layer(recording, layer, weights[layer.call.module]) for layer in chosen),
        cotangent_norm=_finite(slope, "norm"),
        cotangent_mean_abs=_finite(slope, "mean_abs"),
        loss=math.nan if loss is None or not math.isfinite(loss) else loss,
        output_rms=_finite(merged_stats([signal.stats for signal in outputs]), "rms"),
    )


def _weights_by_module(recording: Recording) -> dict[str, str]:
    """Full name of each module's weight: its "weight", or the first matrix it trains. Norms and lone biases have none."""
    found: dict[str, str] = {}
    for parameter in recording.parameters:
        if parameter.requires_grad and parameter.received_gradient and len(parameter.shape) >= 2:
            own_name = parameter.name.rpartition(".")[2]
            if parameter.module not in found or own_name == "weight":
                found[parameter.module] = parameter.name
    return found


def _layer(recording: Recording, layer: Layer, parameter: str) -> LayerMeasurement:
    call = layer.call
    parts = gradient_parts(recording, parameter, call.depth)
    weights = recording.select(SignalKind.WEIGHT_GRADIENT, module=call.module)
    gradient = activation_gradient(recording, call.depth)
    outputs = recording.select(SignalKind.ACTIVATION, depth=call.depth)
    return LayerMeasurement(
        name=f"{call.module}#{call.call}" if call.call else call.module,
        gradient_norm=math.nan if gradient is None or gradient.nonfinite_count else layer.gradient_norm,
        gradient_mean_abs=parts.delta,
        input_mean_abs=parts.signal,
        weight_gradient_mean_abs=parts.weight_gradient,
        weight_gradient_norm=_finite(merged_stats([s.stats for s in weights if s.parameter == parameter]), "norm"),
        activation_rms=_finite(merged_stats([signal.stats for signal in outputs]), "rms"),
    )


def _finite(stats: TensorStats | None, name: str) -> float:
    if stats is None or stats.nonfinite_count or not stats.numel:
        return math.nan
    value = float(getattr(stats, name))
    return value if math.isfinite(value) else math.nan
