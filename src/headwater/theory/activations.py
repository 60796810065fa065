"""Activation functions with their derivatives, as mean-field theory needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.theory.quadrature import Function

Array = NDArray[np.float64]

_SQRT_2, _SQRT_2_PI = math.sqrt(2.0), math.sqrt(2.0 * math.pi)
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_SEARCHED, _GRID, _LEAST_JUMP = 20.0, 0.01, 1e-3  # kinks: how far, how densely, and from which jump of the slope on
_STEP = 1e-5  # of numerical derivatives, relative to 1: errors of 1e-10


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function.

    Args:
        name: as PyTorch's module is called.
        function: elementwise.
        derivative: elementwise; any value where there is none.
        kinks: where the derivative jumps.
    """

    name: str
    function: Function
    derivative: Function
    kinks: Sequence[float] = ()


def from_callable(function: Function, *, name: str = "", kinks: Sequence[float] | None = None) -> Activation:
    """An activation from any elementwise function, differentiated numerically (central differences).

    Args:
        function: of an array of float64, elementwise.
        name: for messages.
        kinks: where its derivative jumps; None: they are searched for between -20 and 20.

    Raises:
        TypeError: the function takes no numpy arrays, as those of torch do not.

    >>> cube = from_callable(lambda x: x**3)
    >>> bool(abs(cube.derivative(np.array([2.0]))[0] - 12.0) < 1e-6)
    True
    >>> from_callable(lambda x: np.clip(x, -1.0, 1.0)).kinks
    (-1.0, 1.0)
    """
    label = name or getattr(function, "__name__", "activation")
    try:
        np.asarray(function(np.zeros(1)), dtype=np.float64)
    except TypeError as error:
        raise TypeError(
            f"expected {label} to take a numpy array and return one: {error}; wrap a function of torch as "
            "lambda x: function(torch.from_numpy(x)).numpy()"
        ) from error

    def derivative(x: Array) -> Array:
        step = _STEP * np.maximum(1.0, np.abs(x))
        return (function(x + step) - function(x - step)) / (2.0 * step)

    return Activation(label, function, derivative, _kinks(function) if kinks is None else kinks)


def _kinks(function: Function) -> tuple[float, ...]:
    """Where the slope or the function jumps, to six digits, between -20 and 20.

    The second difference over the step is a jump of the slope however small the step is, and shrinks with it where the function is smooth.
    """
    grid = (
        np.arange(-_SEARCHED, _SEARCHED + _GRID, _GRID) + 0.1 * _GRID
    )  # kinks mostly lie at round numbers: between nodes
    jump = np.abs(_bend(function, grid, _GRID))
    inside = [np.abs(_bend(function, grid + shift * _GRID, 0.25 * _GRID)) for shift in np.arange(-0.75, 0.76, 0.25)]
    found: list[float] = []
    for position in np.flatnonzero((jump > _LEAST_JUMP) & (np.max(inside, axis=0) > 0.5 * jump)):
        low, high = grid[position] - _GRID, grid[position] + _GRID
        while high - low > 1e-8:
            # Of two overlapping halves, the one whose middle has the larger bend over its width.
            quarter = 0.25 * (high - low)
            middles = np.array([low + quarter, low + 2.0 * quarter, high - quarter])
            middle = middles[np.argmax(np.abs(_bend(function, middles, quarter)))]
            low, high = middle - quarter, middle + quarter
        place = round(0.5 * (low + high), 6)
        near, far = (abs(float(_bend(function, np.array([place]), step)[0])) for step in (1e-4, 1e-3))
        if near > max(_LEAST_JUMP, 0.5 * far) and not any(abs(place - other) < 1e-5 for other in found):
            found.append(float(place) + 0.0)
    return tuple(found)


def _bend(function: Function, x: Array, step: float) -> Array:
    """How much the slope changes over a step to both sides."""
    return (function(x + step) - 2.0 * function(x) + function(x - step)) / step


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """max(x, 0) + negative_slope min(x, 0).

    >>> leaky_relu(0.5).function(np.array([-2.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    return Activation(
        "LeakyReLU",
        lambda x: np.where(x > 0.0, x, negative_slope * x),
        lambda x: np.where(x > 0.0, 1.0, negative_slope),
        (0.0,),
    )


def elu(alpha: float = 1.0, scale: float = 1.0, name: str = "ELU") -> Activation:
    """Scale (x for x > 0, alpha (exp(x) - 1) else); Clevert et al. 2015, arXiv 1511.07289.

    >>> elu().function(np.array([1.0])).tolist()
    [1.0]
    """
    return Activation(
        name,
        lambda x: scale * np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0))),
        lambda x: scale * np.where(x > 0.0, 1.0, alpha * np.exp(np.minimum(x, 0.0))),
        (0.0,),
    )


_elementwise_erf = np.frompyfunc(math.erf, 1, 1)


def _erf(x: Array) -> Array:
    return np.asarray(_elementwise_erf(x), dtype=np.float64)


def _normal_density(x: Array) -> Array:
    return np.exp(-0.5 * x * x) / _SQRT_2_PI


def _normal_distribution(x: Array) -> Array:
    return 0.5 * (1.0 + _erf(x / _SQRT_2))


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _sigmoid_derivative(x: Array) -> Array:
    return 0.25 * (1.0 - np.tanh(0.5 * x) ** 2)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_tanh_derivative(x: Array) -> Array:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * x * x)
    return 0.5 * (1.0 + np.tanh(inner)) + 0.5 * x * (1.0 - np.tanh(inner) ** 2) * slope


LINEAR = Activation("Identity", lambda x: x, np.ones_like)
RELU = Activation("ReLU", lambda x: np.maximum(x, 0.0), lambda x: (x > 0.0).astype(np.float64), (0.0,))
ELU = elu()
SELU = elu(_SELU_ALPHA, _SELU_SCALE, "SELU")
GELU = Activation(
    "GELU", lambda x: x * _normal_distribution(x), lambda x: _normal_distribution(x) + x * _normal_density(x)
)
GELU_TANH = Activation("GELU (tanh)", _gelu_tanh, _gelu_tanh_derivative)
SILU = Activation("SiLU", lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) + x * _sigmoid_derivative(x))
TANH = Activation("Tanh", np.tanh, lambda x: 1.0 - np.tanh(x) ** 2)
SIGMOID = Activation("Sigmoid", _sigmoid, _sigmoid_derivative)
SOFTPLUS = Activation("Softplus", lambda x: np.logaddexp(0.0, x), _sigmoid)
ERF = Activation("erf", _erf, lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-x * x))
HARDTANH = Activation(
    "Hardtanh", lambda x: np.clip(x, -1.0, 1.0), lambda x: (np.abs(x) < 1.0).astype(np.float64), (-1.0, 1.0)
)

ACTIVATIONS: tuple[Activation, ...] = (
    LINEAR,
    RELU,
    leaky_relu(),
    ELU,
    SELU,
    GELU,
    GELU_TANH,
    SILU,
    TANH,
    SIGMOID,
    SOFTPLUS,
    ERF,
    HARDTANH,
)
