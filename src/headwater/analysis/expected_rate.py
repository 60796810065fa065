"""What mean-field theory expects of the weights that were recorded, beside what was measured."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwater.analysis.causes import Cause
from headwater.analysis.waterfall import Waterfall, WaterfallStep, waterfall
from headwater.recording import Recording, SignalKind, merged_stats
from headwater.theory import activations as known
from headwater.theory.activations import Activation
from headwater.theory.finite_width import factor_band, kappa
from headwater.theory.mean_field import (
    Initialisation,
    chi,
    chi_with_batch_norm,
    chi_with_layer_norm,
)

_LEAST_LAYERS = 3
# Half of the band: three standard deviations of a network of this width, and 2 % for what theory leaves out (a batch that
# is no Gaussian, zeros around a picture).
_DEVIATIONS, _SLACK = 3.0, 1.02
_INITIALISATIONS = (
    ("PyTorch's default initialisation", 1.0 / 3.0),
    ("Xavier, LeCun or orthogonal initialisation", 1.0),
    ("He initialisation", 2.0),
    ("initialisation with PyTorch's gain for tanh, 5/3,", 25.0 / 9.0),
)
_SAME = 0.1  # relative, of sigma_w²: rows differ by sampling
_BY_NAME: dict[str, Activation] = {
    "relu": known.RELU,
    "selu": known.SELU,
    "gelu": known.GELU,
    "silu": known.SILU,
    "tanh": known.TANH,
    "sigmoid": known.SIGMOID,
    "softplus": known.SOFTPLUS,
    "hardtanh": known.HARDTANH,
    "erf": known.ERF,
    "elu": known.ELU,
    "leakyrelu": known.leaky_relu(),
    "leaky_relu": known.leaky_relu(),
}
_LAYER_NORMS = ("layernorm", "rmsnorm", "layer_norm", "rms_norm")
_BATCH_NORMS = ("batchnorm1d", "batchnorm2d", "batchnorm3d", "batch_norm")


@dataclass(frozen=True, slots=True)
class ExpectedRate:
    """The factor per layer that a gradient's norm is multiplied by in a stack of like layers.

    Args:
        activation: of the stack.
        normalisation: "", "LayerNorm" (also RMSNorm) or "BatchNorm".
        num_layers: that the factors are over.
        weight_variance: sigma_w², the median over the layers.
        initialisation: whose variance that is; "" for none that is known.
        measured_factor: the geometric mean.
        expected_factor: by mean-field theory for these weights.
        low, high: what a network of this width may show.
    """

    activation: str
    normalisation: str
    num_layers: int
    weight_variance: float
    initialisation: str
    measured_factor: float
    expected_factor: float
    low: float
    high: float

    @property
    def is_expected(self) -> bool:
        """Whether the measured factor lies in the band."""
        return self.low <= self.measured_factor <= self.high

    def __str__(self) -> str:
        with_norm = f" and {self.normalisation}" if self.normalisation else ""
        weights = self.initialisation or f"these weights (sigma_w² = {self.weight_variance:.3g})"
        theory = f"theory {self.expected_factor:.4g}, {self.low:.3g} to {self.high:.3g} at this width"
        measured = f"{self.measured_factor:.3g} per layer"
        verb = "give" if weights.startswith("these") else "gives"
        if self.is_expected:
            return f"{measured} is what {weights} {verb} with {self.activation}{with_norm} ({theory})."
        ratio = self.measured_factor / self.expected_factor
        how = f"{1 / ratio:.3g} times smaller" if ratio < 1.0 else f"{ratio:.3g} times larger"
        return f"{measured} is {how} than {weights} should give with {self.activation}{with_norm} ({theory})."


def expected_rate(recording: Recording, way: Waterfall | None = None) -> ExpectedRate | None:
    """Theory beside measurement for the longest stack of weights, activation and perhaps a norm on the gradient's way.

    The stack is read from the waterfall: linear layers or convolutions that own their weights, each with the same activation
    before the next one. The factors are over the layers but the last, whose activation is not followed by weights of the stack.

    Args:
        recording: with weights measured.
        way: its waterfall, where it is known already.

    Returns:
        None where no stack of three layers or more is recognised, or its gradient is zero or not finite.

    >>> from headwater.recording import RecordingBuilder
    >>> expected_rate(RecordingBuilder().build()) is None
    True
    """
    way = way or waterfall(recording)
    layers = max(_stacks(recording, way.steps), key=len, default=[])
    if len(layers) < _LEAST_LAYERS:
        return None
    measured = math.fsum(layer.decades for layer in layers)
    if not math.isfinite(measured):
        return None
    first = layers[0]
    expected = _expected_decades(recording, layers, _module_before(way, layers[-1]))
    if expected is None:
        return None
    factor = 10 ** (expected / len(layers))
    band = factor_band(factor, kappa(first.activation), [layer.width for layer in layers], deviations=_DEVIATIONS)
    variance = statistics.median(layer.initialisation.weight_variance for layer in layers)  # the head may differ
    return ExpectedRate(
        activation=first.activation.name,
        normalisation=first.normalisation,
        num_layers=len(layers),
        weight_variance=variance,
        initialisation=next((n for n, v in _INITIALISATIONS if abs(variance / v - 1.0) < _SAME), ""),
        measured_factor=10 ** (measured / len(layers)),
        expected_factor=factor,
        low=band[0] / _SLACK,
        high=band[1] * _SLACK,
    )


@dataclass(frozen=True, slots=True)
class _StackLayer:
    """Weights, then activation (and a norm before or after it), in the forward direction: activation first here."""

    activation: Activation
    normalisation: str
    initialisation: Initialisation
    width: int
    decades: float
    module: str


def _stacks(recording: Recording, steps: Sequence[WaterfallStep]) -> Iterator[list[_StackLayer]]:
    """Runs of like layers, each in the gradient's order."""
    current: list[_StackLayer] = []
    for layer in _layers(recording, steps):
        like = current and layer is not None
        if like and layer is not None and _kind(layer) == _kind(current[0]):
            current.append(layer)
            continue
        if current:
            yield current
        current = [layer] if layer is not None else []
    if current:
        yield current


def _kind(layer: _StackLayer) -> tuple[str, str]:
    return layer.activation.name, layer.normalisation


def _layers(recording: Recording, steps: Sequence[WaterfallStep]) -> Iterator[_StackLayer | None]:
    """Each group of weights and the activation before them; None where the pattern breaks."""
    group: list[WaterfallStep] = []
    for step in steps:
        if step.cause is Cause.WEIGHTS:
            if group:
                yield _layer(recording, group)
            group = [step]
        elif group:
            group.append(step)
        elif step.cause is not Cause.LOSS:
            yield None
    if group:
        yield _layer(recording, group)


def _layer(recording: Recording, group: Sequence[WaterfallStep]) -> _StackLayer | None:
    weights, *rest = group
    initialisation = _initialisation(recording, weights.module)
    activation, normalisation = None, ""
    for step in rest:
        name = step.operation.rpartition(".")[2].lower()
        if step.cause is Cause.ACTIVATION and activation is None:
            activation = _activation(recording, name, step.module)
            if activation is None:
                return None
        elif name in (*_LAYER_NORMS, *_BATCH_NORMS) and not normalisation:
            normalisation = "LayerNorm" if name in _LAYER_NORMS else "BatchNorm"
        elif abs(step.decades) > 1e-6:  # a view is nothing, anything else is no part of such a layer
            return None
    if activation is None or initialisation is None:
        return None
    return _StackLayer(
        activation,
        normalisation,
        initialisation[0],
        initialisation[1],
        math.fsum(step.decades for step in group),
        weights.module,
    )


def _activation(recording: Recording, name: str, module: str) -> Activation | None:
    config = next((info.config for info in recording.modules if info.name == module), "")
    if name == "gelu" and "tanh" in config:
        return known.GELU_TANH
    number = re.search(r"(?:negative_slope|alpha)=([-+.e\d]+)", config)
    if name in ("leakyrelu", "leaky_relu") and number:
        return known.leaky_relu(float(number.group(1)))
    if name == "elu" and number:
        return known.elu(float(number.group(1)))
    if name == "hardtanh" and "min_val" in config:  # of other bounds than -1 and 1
        return None
    return _BY_NAME.get(name)


def _initialisation(recording: Recording, module: str) -> tuple[Initialisation, int] | None:
    """Variances of a module's weight and bias as they are, and how many inputs a unit has."""
    found = {signal.item: signal for signal in recording.select(SignalKind.WEIGHT, module=module)}
    weight = found.get("weight")
    if weight is None or len(weight.shape) < 2 or not weight.stats.finite_count:
        return None
    fan_in = math.prod(weight.shape[1:])
    bias = found.get("bias")
    bias_variance = bias.stats.rms**2 if bias is not None and bias.stats.finite_count else 0.0
    return Initialisation(weight.stats.rms**2 * fan_in, bias_variance), fan_in


def _module_before(way: Waterfall, layer: _StackLayer) -> str:
    """The module whose output the stack's first activation reads: the next weights on the gradient's way, or its end."""
    weights = [step.module for step in way.steps if step.cause is Cause.WEIGHTS]
    return [*weights, way.module][weights.index(layer.module) + 1]


def _expected_decades(recording: Recording, layers: Sequence[_StackLayer], first: str) -> float | None:
    """log10 of what theory expects of the whole stack; None where it expects nothing finite.

    The variances of the pre-activations are those that were measured: how far they stray from the variance map at finite
    width is the forward pass' affair.
    """
    if layers[0].normalisation:
        with_norm = chi_with_layer_norm if layers[0].normalisation == "LayerNorm" else chi_with_batch_norm
        return 0.5 * len(layers) * math.log10(with_norm(layers[0].activation))
    forward = layers[::-1]
    before = [first, *(layer.module for layer in forward)]  # the weights of a layer stand behind its activation
    logs = []
    for module, layer in zip(before, forward, strict=False):
        variance = _variance(recording, module)
        found = math.nan if variance is None else chi(layer.activation, layer.initialisation, variance)
        if not 0.0 < found < math.inf:
            return None
        logs.append(0.5 * math.log10(found))
    return math.fsum(logs)


def _variance(recording: Recording, module: str) -> float | None:
    """Mean square of what a module returned: pre-activations."""
    outputs = [signal.stats for signal in recording.select(SignalKind.ACTIVATION, module=module)]
    merged = merged_stats(outputs)
    return None if merged is None or not merged.finite_count else merged.rms**2
