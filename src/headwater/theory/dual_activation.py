"""The correlation map as a power series: how fast two inputs become alike, or unlike, in a wide random network.

With normalised Hermite polynomials h_k, phi(sqrt(q) z) = sum of a_k h_k(z), and for two standard normals of correlation c the mean
of phi phi is sum of a_k² c^k: the dual activation (Daniely et al. 2016, arXiv 1602.05897, section 4.2).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.theory.activations import Activation
from headwater.theory.mean_field import Initialisation, chi, depth_scale

_NUM_TERMS = 200
_REACH = 12.0  # standard deviations
_PIECE = 0.05  # standard deviations; h_200 has a zero every 0.1
_NUM_NODES = 8  # of Gauss and Legendre, per piece
_STEPS = 200  # of a bisection


@dataclass(frozen=True)
class DualActivation:
    """E phi(x) phi(y) as a function of the correlation of x and y.

    Args:
        squares: a_k², the coefficients of the correlation's powers.
    """

    squares: NDArray[np.float64]

    def value(self, correlation: float) -> float:
        """Sum of a_k² c^k.

        >>> from headwater.theory.activations import LINEAR
        >>> round(dual_activation(LINEAR, 2.0).value(0.5), 9)
        1.0
        """
        return float(np.polynomial.polynomial.polyval(correlation, self.squares))

    def slope(self, correlation: float) -> float:
        """Sum of k a_k² c^(k-1), which is q E phi' phi'.

        >>> from headwater.theory.activations import LINEAR
        >>> round(dual_activation(LINEAR, 2.0).slope(0.5), 9)
        2.0
        """
        return float(np.polynomial.polynomial.polyval(correlation, np.polynomial.polynomial.polyder(self.squares)))


@functools.lru_cache(maxsize=1024)
def dual_activation(activation: Activation, variance: float) -> DualActivation:
    """The dual of an activation at inputs of a variance, to 200 terms: to about 1e-4 for ReLU at c = 1, to 1e-12 below 0.9.

    >>> from headwater.theory.activations import RELU
    >>> round(dual_activation(RELU, 1.0).value(0.0), 9) == round(0.5 / math.pi, 9)
    True
    """
    deviation = math.sqrt(variance)
    z, weights = _nodes(tuple(kink / deviation for kink in activation.kinks if deviation > 0.0))
    values = activation.function(deviation * z) * weights
    squares = np.empty(_NUM_TERMS)
    before, now = np.zeros_like(z), np.ones_like(z)
    for k in range(_NUM_TERMS):
        squares[k] = float(values @ now) ** 2
        before, now = now, (z * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    return DualActivation(squares)


def correlation_fixed_point(activation: Activation, initialisation: Initialisation, variance: float) -> float:
    """c*, the correlation that two different inputs end at: 1 in the ordered phase, less in the chaotic one.

    Args:
        activation: of the layers.
        initialisation: of the layers.
        variance: q*, the fixed point of the variance map.

    >>> from headwater.theory.activations import TANH
    >>> correlation_fixed_point(TANH, Initialisation(0.9), 0.0), correlation_fixed_point(TANH, Initialisation(4.0), 1.0) < 1
    (1.0, True)
    """
    if variance == 0.0 or chi(activation, initialisation, variance) <= 1.0:
        return 1.0
    dual = dual_activation(activation, variance)
    low, high = 0.0, 1.0 - 1e-6  # the map is convex there, starts at or above the diagonal and, in chaos, ends below it
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        mapped = (initialisation.weight_variance * dual.value(middle) + initialisation.bias_variance) / variance
        low, high = (middle, high) if mapped > middle else (low, middle)
    return low


def correlation_depth_scale(activation: Activation, initialisation: Initialisation, variance: float) -> float:
    """xi_c = 1 / abs(ln chi_c): layers over which the correlation of two inputs comes e times nearer to c*.

    chi_c = sigma_w² E phi' phi' at c*; in the ordered phase it is chi (Schoenholz et al. 2017, arXiv 1611.01232, eq. 9). A network
    trains to about 6 xi_c layers.

    Args:
        activation: of the layers.
        initialisation: of the layers.
        variance: q*, the fixed point of the variance map.

    >>> from headwater.theory.activations import TANH
    >>> round(correlation_depth_scale(TANH, Initialisation(0.5), 0.0), 6) == round(1 / math.log(2), 6)
    True
    """
    correlation = correlation_fixed_point(activation, initialisation, variance)
    if correlation == 1.0:
        return depth_scale(chi(activation, initialisation, variance))
    slope = dual_activation(activation, variance).slope(correlation)
    return depth_scale(initialisation.weight_variance * slope / variance)


@functools.lru_cache(maxsize=64)
def _nodes(kinks: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edges = np.unique([*np.arange(-_REACH, _REACH + _PIECE / 2, _PIECE), *(k for k in kinks if abs(k) < _REACH)])
    points, weights = np.polynomial.legendre.leggauss(_NUM_NODES)
    half = np.diff(edges) / 2
    z = ((edges[:-1] + half)[:, None] + half[:, None] * points).ravel()
    return z, (half[:, None] * weights).ravel() * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
