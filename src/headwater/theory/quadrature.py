"""Expectations over a Gaussian, by Gauss-Legendre quadrature between the kinks of a function."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_REACH = 12.0  # standard deviations; what is beyond weighs 4e-33
_NUM_NODES = 32  # per piece
_PIECE = 0.5  # standard deviations


def gaussian_mean(function: Function, variance: float, kinks: Sequence[float] = (0.0,)) -> float:
    """E f(x) for x ~ N(0, variance): to about 1e-12 for what is smooth between its kinks.

    Args:
        function: of an array of numbers, elementwise.
        variance: of x, not negative.
        kinks: where the function or a derivative of it jumps.

    Raises:
        ValueError: the variance is negative or no number.

    >>> round(gaussian_mean(lambda x: x**4, 2.0), 9)
    12.0
    >>> round(gaussian_mean(lambda x: np.maximum(x, 0.0) ** 2, 1.0), 12)
    0.5
    """
    nodes, weights = gaussian_nodes(variance, kinks)
    return float(weights @ function(nodes))


def gaussian_nodes(variance: float, kinks: Sequence[float] = (0.0,)) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of x ~ N(0, variance), and their weights, which hold the density: E f(x) is `weights @ f(values)`.

    Args:
        variance: of x, not negative.
        kinks: where the functions or a derivative of them jump.

    Raises:
        ValueError: the variance is negative or no number.

    >>> values, weights = gaussian_nodes(2.0)
    >>> round(float(weights @ values**2), 9)
    2.0
    """
    _check_variance(variance)
    deviation = math.sqrt(variance)
    if deviation == 0.0:
        return np.zeros(1), np.ones(1)
    nodes, weights = _nodes(tuple(sorted({kink / deviation for kink in kinks if abs(kink) < _REACH * deviation})))
    return deviation * nodes, weights


def gaussian_mean_of_product(
    function: Function, variance: float, correlation: float, kinks: Sequence[float] = (0.0,)
) -> float:
    """E f(x) f(y) for x, y ~ N(0, variance) with a correlation.

    Args:
        function: of an array of numbers, elementwise.
        variance: of x and of y.
        correlation: between -1 and 1.
        kinks: where the function or a derivative of it jumps.

    Raises:
        ValueError: the variance is negative or no number, or the correlation is outside of [-1, 1].

    >>> round(gaussian_mean_of_product(lambda x: x, 2.0, 0.5), 9)
    1.0
    """
    if not -1.0 <= correlation <= 1.0:
        raise ValueError(f"expected a correlation between -1 and 1, got {correlation}")
    if abs(correlation) == 1.0:
        return gaussian_mean(
            lambda x: function(x) * function(correlation * x), variance, (*kinks, *(-k for k in kinks))
        )
    _check_variance(variance)
    deviation = math.sqrt(variance)
    rest = math.sqrt(1.0 - correlation * correlation)
    nodes, weights = _nodes(tuple(sorted({k / deviation for k in kinks if abs(k) < _REACH * deviation})))
    inner = np.array([_mean_around(function, deviation, correlation * x, rest, kinks) for x in nodes])
    return float(weights @ (function(deviation * nodes) * inner))


def _mean_around(function: Function, deviation: float, centre: float, rest: float, kinks: Sequence[float]) -> float:
    """E f(deviation (centre + rest z)) for z ~ N(0, 1)."""
    inside = sorted({(kink / deviation - centre) / rest for kink in kinks})
    nodes, weights = _nodes_between(tuple(round(kink, 12) for kink in inside if abs(kink) < _REACH))
    return float(weights @ function(deviation * (centre + rest * nodes)))


@functools.lru_cache(maxsize=64)
def _nodes(kinks: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _nodes_between(kinks)


def _nodes_between(kinks: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes, and weights that hold the density of N(0, 1)."""
    bounds = np.unique([*np.arange(-_REACH, _REACH + _PIECE / 2, _PIECE), *kinks])
    points, weights = _legendre()
    middles, halves = (bounds[1:] + bounds[:-1]) / 2.0, np.diff(bounds) / 2.0
    nodes = (middles[:, None] + halves[:, None] * points).ravel()
    scaled = (halves[:, None] * weights).ravel()
    return nodes, scaled * np.exp(-0.5 * nodes * nodes) / math.sqrt(2.0 * math.pi)


@functools.cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(_NUM_NODES)


def _check_variance(variance: float) -> None:
    if not 0.0 <= variance < math.inf:
        raise ValueError(f"expected a variance that is a number and not negative, got {variance}")
