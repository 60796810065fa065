"""The equations of a product of free matrices, solved: see `headwater.theory.spectrum` for what they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.theory.activations import Activation
from headwater.theory.quadrature import gaussian_nodes

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

_HEIGHT = 1e-5  # above the real axis, relative to x, at the end
_DESCENT = 0.5  # of a step's height to that of the one before
_NEWTON_STEPS, _CLOSE = 12, 1e-10
_MOST_SLOPES = 256


class Slopes(NamedTuple):
    """The squares that an activation's slope takes, and the share of each; the shares sum to 1."""

    squares: Array
    shares: Array


def share_without_slope(activation: Activation, variance: float) -> float:
    """How many of the pre-activations meet a slope of exactly zero.

    >>> from headwater.theory.activations import RELU, TANH
    >>> share_without_slope(RELU, 1.0), share_without_slope(TANH, 1.0)
    (0.5, 0.0)
    """
    nodes, shares = gaussian_nodes(variance, activation.kinks)
    return round(float(shares[activation.derivative(nodes) == 0.0].sum()), 12)


class Layers(NamedTuple):
    """Like layers one after another: squared slopes with their shares, how many, sigma_w², and Gaussian or orthogonal weights."""

    squares: Array
    shares: Array
    num_layers: int
    weight_variance: float
    is_gaussian: bool

    def moments(self, w: Complex) -> tuple[Complex, Complex]:
        """M_D(w) and its derivative."""
        quotients = self.squares / (w[..., None] - self.squares)
        return quotients @ self.shares, -(quotients / (w[..., None] - self.squares)) @ self.shares

    def log_x(self, w: Complex) -> tuple[Complex, Complex, Complex]:
        """Ln x(w), its derivative, and M. For w above the axis every factor lies below it, so that no logarithm jumps."""
        moment, slope = self.moments(w)
        plus = 1.0 + moment
        logarithm = np.log(plus) - np.log(moment) + self.num_layers * np.log(self.weight_variance * w * moment)
        derivative = slope / plus - slope / moment + self.num_layers * (1.0 / w + slope / moment)
        if not self.is_gaussian:
            logarithm = logarithm - self.num_layers * np.log(plus)
            derivative = derivative - self.num_layers * slope / plus
        return logarithm, derivative, moment


def slopes_of(activation: Activation, variance: float) -> Slopes:
    """The values that phi'² takes, with the probability of each; of smooth activations in small groups.

    >>> from headwater.theory.activations import RELU
    >>> [values.tolist() for values in slopes_of(RELU, 1.0)]
    [[0.0, 1.0], [0.5, 0.5]]
    """
    nodes, shares = gaussian_nodes(variance, activation.kinks)
    squares = np.round(activation.derivative(nodes) ** 2, 12)
    values, groups = np.unique(squares, return_inverse=True)
    if values.size > _MOST_SLOPES:
        roots = np.sqrt(squares)
        groups = np.unique(np.round((_MOST_SLOPES - 1) * roots / roots.max()), return_inverse=True)[1]
    of_group = np.bincount(groups.ravel(), shares)
    means = np.bincount(groups.ravel(), shares * squares)[of_group > 0.0] / of_group[of_group > 0.0]
    return Slopes(means, of_group[of_group > 0.0] / shares.sum())


def edge_of(layers: Layers) -> float:
    """By bisection of the sign of the derivative between the largest slope and far above it.

    >>> round(edge_of(Layers(np.ones(1), np.ones(1), 2, 1.0, is_gaussian=True)), 9)
    6.75
    """
    largest = float(layers.squares.max())
    low, high = -14.0, math.log10(100.0 * (layers.num_layers + 1))  # decades of w / largest - 1
    if _rises(layers, largest, low):
        return _x(layers, largest, low)
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _rises(layers, largest, middle) else (middle, high)
    return _x(layers, largest, high)


def _at(largest: float, decades: float) -> Complex:
    return np.array([largest * (1.0 + 10.0**decades)], dtype=np.complex128)


def _rises(layers: Layers, largest: float, decades: float) -> bool:
    return bool(layers.log_x(_at(largest, decades))[1].real[0] > 0.0)


def _x(layers: Layers, largest: float, decades: float) -> float:
    return float(np.exp(layers.log_x(_at(largest, decades))[0].real[0]))


def just_above(layers: Layers, squares: Array) -> Complex:
    """M(x + i 0) at many x at once.

    >>> layers = Layers(np.ones(1), np.ones(1), 1, 1.0, is_gaussian=True)
    >>> bool(np.isclose(-just_above(layers, np.array([2.0])).imag[0] / (2.0 * math.pi), 1.0 / (2.0 * math.pi)))
    True
    """
    mean = float(layers.squares @ layers.shares)
    height = 1e3 * (1.0 + layers.num_layers) * float(squares.max()) * float(layers.squares.max()) / mean
    total = (layers.weight_variance * mean) ** layers.num_layers
    x = squares + 1j * height
    w = x * mean / total  # far away M is both mean / w and total / x
    heights = np.full_like(squares, height)
    while True:
        x = squares + 1j * heights
        w = _solved(layers, np.log(x), w.astype(np.complex128))
        if np.all(heights <= _HEIGHT * squares):
            return layers.log_x(w)[2]
        heights = np.maximum(_DESCENT * heights, _HEIGHT * squares)


def _solved(layers: Layers, log_x: Complex, w: Complex) -> Complex:
    """Newton's method for ln x(w) = ln x, which does not leave the upper half plane."""
    for _ in range(_NEWTON_STEPS):
        logarithm, derivative, _ = layers.log_x(w)
        step = (logarithm - log_x) / derivative
        if np.all(np.abs(step) <= _CLOSE * np.abs(w)):
            break
        following = w - step
        w = np.where(following.imag > 0.0, following, w.real - step.real + 0.1j * w.imag)
    return w
