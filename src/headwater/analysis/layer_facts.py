"""What a recording knows of a layer that theory needs: its activation function, its weights' variance, its width."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from headwater.recording import Recording, SignalKind, merged_stats
from headwater.theory import activations as known
from headwater.theory.activations import Activation
from headwater.theory.mean_field import Initialisation

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
_INITIALISATIONS = (
    ("PyTorch's default initialisation", 1.0 / 3.0),
    ("Xavier, LeCun or orthogonal initialisation", 1.0),
    ("He initialisation", 2.0),
    ("initialisation with PyTorch's gain for tanh, 5/3,", 25.0 / 9.0),
)
_SAME = 0.1  # relative, of sigma_w²: rows differ by sampling


@dataclass(frozen=True, slots=True)
class Weights:
    """A module's weights as they are.

    Args:
        initialisation: their variance times the fan-in, and that of the bias.
        fan_in: how many inputs a unit has.
        num_inputs: features or channels of them.
    """

    initialisation: Initialisation
    fan_in: int
    num_inputs: int


def activation_of(recording: Recording, name: str, module: str) -> Activation | None:
    """The activation that an operation or a module type stands for, with the module's settings; None for unknown ones."""
    name = name.rpartition(".")[2].lower()
    config = next((info.config for info in recording.modules if info.name == module), "")
    if name == "gelu" and "tanh" in config:
        return known.GELU_TANH
    number = re.search(r"(?:negative_slope|alpha)=([-+.e\d]+)", config)
    if name in ("leakyrelu", "leaky_relu") and number:
        return known.leaky_relu(float(number.group(1)))
    if name == "elu" and number:
        return known.elu(float(number.group(1)))
    bounds = re.findall(r"(?:min|max)_val=([-+.e\d]+)", config)
    if name == "hardtanh" and [float(bound) for bound in bounds] not in ([], [-1.0, 1.0]):
        return None
    return _BY_NAME.get(name)


def weights_of(recording: Recording, module: str) -> Weights | None:
    """Of a module that owns one weight matrix or kernel; None for others."""
    found = {signal.item: signal for signal in recording.select(SignalKind.WEIGHT, module=module)}
    weight = found.get("weight")
    if weight is None or len(weight.shape) < 2 or not weight.stats.finite_count:
        return None
    fan_in = math.prod(weight.shape[1:])
    bias = found.get("bias")
    bias_variance = bias.stats.rms**2 if bias is not None and bias.stats.finite_count else 0.0
    return Weights(Initialisation(weight.stats.rms**2 * fan_in, bias_variance), fan_in, weight.shape[1])


def output_variance(recording: Recording, module: str) -> float | None:
    """Mean square of what a module returned: pre-activations, mostly."""
    outputs = [signal.stats for signal in recording.select(SignalKind.ACTIVATION, module=module)]
    merged = merged_stats(outputs)
    return None if merged is None or not merged.finite_count else merged.rms**2


def known_initialisation(weight_variance: float) -> tuple[str, float]:
    """Name and sigma_w² of the initialisation that a variance is that of; "" and the variance itself for none that is known.

    >>> known_initialisation(0.34)[0], known_initialisation(0.5)
    ("PyTorch's default initialisation", ('', 0.5))
    """
    found = ((name, value) for name, value in _INITIALISATIONS if is_same_variance(weight_variance, value))
    return next(found, ("", weight_variance))


def is_same_variance(one: float, other: float) -> bool:
    """Whether two variances of weights are the same but for sampling.

    >>> is_same_variance(0.34, 1 / 3), is_same_variance(0.34, 0.5)
    (True, False)
    """
    return abs(one / other - 1.0) < _SAME if other > 0.0 else one == other
