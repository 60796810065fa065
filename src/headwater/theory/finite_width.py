"""How far a network of finite width scatters around mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.theory.activations import Activation
from headwater.theory.quadrature import gaussian_mean


@dataclass(frozen=True, slots=True)
class LogNormal:
    """ln of a squared norm, as a Gaussian.

    Args:
        mean: of the logarithm, relative to the product of chi.
        variance: of the logarithm.
    """

    mean: float
    variance: float


def kappa(activation: Activation, variance: float = 1.0) -> float:
    """N times the relative variance of what one layer of width n multiplies ||J u||² by: 3 E phi'⁴ / (E phi'²)² - 1.

    2 for a linear layer and 5 for ReLU (Hanin 2018, arXiv 1801.03744; Hanin & Rolnick 2018, arXiv 1803.01719).

    >>> from headwater.theory.activations import LINEAR, RELU
    >>> round(kappa(LINEAR), 9), round(kappa(RELU), 9)
    (2.0, 5.0)
    """
    fourth = gaussian_mean(lambda x: activation.derivative(x) ** 4, variance, activation.kinks)
    second = gaussian_mean(lambda x: activation.derivative(x) ** 2, variance, activation.kinks)
    return 3.0 * fourth / (second * second) - 1.0


def log_gain(per_layer: float, widths: Sequence[int]) -> LogNormal:
    """Ln ||J u||² over layers, relative to the product of chi: N(-kappa/2 sum 1/n, kappa sum 1/n).

    The mean of ||J u||² itself is carried by rare draws: compare medians, or means of logarithms.

    Args:
        per_layer: kappa of the activation.
        widths: of the layers.

    >>> log_gain(5.0, [100] * 20)
    LogNormal(mean=-0.5, variance=1.0)
    """
    spread = per_layer * math.fsum(1.0 / width for width in widths)
    return LogNormal(-0.5 * spread, spread)


def second_moment_ratio(per_layer: float, widths: Sequence[int]) -> float:
    """E r² / (E r)² of r = ||J u||²: the product of 1 + kappa / n (Hanin & Rolnick 2018).

    >>> round(second_moment_ratio(5.0, [10, 10]), 9)
    2.25
    """
    return math.prod(1.0 + per_layer / width for width in widths)


def factor_band(
    expected_factor: float, per_layer: float, widths: Sequence[int], *, deviations: float = 3.0
) -> tuple[float, float]:
    """Between what a measured factor per layer (of a gradient's norm) lies, for a network of these widths.

    Args:
        expected_factor: sqrt(chi), the geometric mean over the layers.
        per_layer: kappa of the activation.
        widths: of the layers, at least one.
        deviations: how many standard deviations to either side; 3 leave out 1 network of 370.

    >>> low, high = factor_band(1.0, 2.0, [100] * 10)
    >>> round(low, 3), round(high, 3)
    (0.93, 1.064)
    """
    gain = log_gain(per_layer, widths)
    # Half of the logarithm of the squared norm, per layer.
    middle = 0.5 * gain.mean / len(widths)
    spread = 0.5 * deviations * math.sqrt(gain.variance) / len(widths)
    return expected_factor * math.exp(middle - spread), expected_factor * math.exp(middle + spread)
