"""Where an activation's gradients neither vanish nor explode: sigma_w² and sigma_b² on the edge of chaos."""

from __future__ import annotations

import functools
from collections.abc import Callable

from headwater.networks.specification import NO_CRITICAL_POINT, SpecificationError
from headwater.theory import activations
from headwater.theory.activations import Activation
from headwater.theory.mean_field import Initialisation, chi, critical_initialisation, variance_map

_THEORY: dict[str, Activation] = {
    "linear": activations.LINEAR,
    "relu": activations.RELU,
    "leaky_relu": activations.leaky_relu(),
    "elu": activations.ELU,
    "selu": activations.SELU,
    "gelu": activations.GELU,
    "gelu_tanh": activations.GELU_TANH,
    "silu": activations.SILU,
    "tanh": activations.TANH,
    "sigmoid": activations.SIGMOID,
    "softplus": activations.SOFTPLUS,
    "erf": activations.ERF,
    "hardtanh": activations.HARDTANH,
}
_UNIT = Initialisation(1.0)
_STEPS = 200  # of a bisection in float64: it ends where two neighbours are left


def theory_activation(name: str) -> Activation:
    """The activation of a specification as `headwater.theory` knows it.

    >>> theory_activation("relu").name
    'ReLU'
    """
    return _THEORY[name]


@functools.cache
def critical_point(name: str) -> Initialisation:
    """sigma_w² and sigma_b² of the critical point that is taken for an activation: chi = 1 at a fixed point of the variance.

    Each activation has a line of them, one for each variance q. Taken are: any q for linear, ReLU and leaky ReLU, where all are
    one point; q = 1 for SELU, which is made for it; the origin, sigma_b² = 0, for tanh, erf, hardtanh and ELU; the q where the
    variance is kept to first order too, E phi phi'' = 0, for GELU and SiLU (Roberts, Yaida & Hanin 2021, arXiv 2106.10165,
    section 5.3.4); and sigma_b² = 0 for sigmoid, where the line begins.

    Raises:
        SpecificationError: softplus has none: chi = 1 needs a negative sigma_b² at every q.

    >>> critical_point("tanh"), critical_point("relu")
    (Initialisation(weight_variance=1.0, bias_variance=0.0), Initialisation(weight_variance=2.0, bias_variance=0.0))
    """
    activation = theory_activation(name)
    if name == "softplus":
        raise SpecificationError(NO_CRITICAL_POINT)
    if name in ("tanh", "erf", "hardtanh", "elu"):
        return Initialisation(round(1.0 / chi(activation, _UNIT, 0.0), 12))
    if name in ("gelu", "gelu_tanh", "silu"):
        return critical_initialisation(activation, _root(lambda q: _curvature(activation, q), 1.0, 100.0))
    if name == "sigmoid":
        variance = _root(lambda q: _bias_variance(activation, q), 1.0, 1e4)
        return Initialisation(1.0 / chi(activation, _UNIT, variance))
    return critical_initialisation(activation, 1.0)


def _curvature(activation: Activation, variance: float) -> float:
    """E phi phi'', half the derivative of E phi² by the variance minus E phi'², by a central difference."""
    step = 1e-4 * variance
    slope = (variance_map(activation, _UNIT, variance + step) - variance_map(activation, _UNIT, variance - step)) / (
        2.0 * step
    )
    return slope - chi(activation, _UNIT, variance)


def _bias_variance(activation: Activation, variance: float) -> float:
    """sigma_b² on the line of chi = 1; negative where there is none."""
    return variance - variance_map(activation, Initialisation(1.0 / chi(activation, _UNIT, variance)), variance)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    is_rising = function(high) > 0.0
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (low, middle) if (function(middle) > 0.0) == is_rising else (middle, high)
    return high
