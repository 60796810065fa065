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


def signal_kappa(activation: Activation, variance: float = 1.0) -> float:
    """N times the relative variance of a layer's mean square at width n, given the layer's input: E phi⁴ / (E phi²)² - 1.

    2 for a linear layer and 5 for ReLU, as for gradients (Hanin & Rolnick 2018, arXiv 1803.01719). Of homogeneous activations the
    fluctuations of all layers multiply, as `log_gain` says; others pull the variance back to its fixed point. Simulation of one layer agrees within
    10 %.

    >>> from headwater.theory.activations import LINEAR, RELU
    >>> round(signal_kappa(LINEAR), 9), round(signal_kappa(RELU), 9)
    (2.0, 5.0)
    """
    fourth = gaussian_mean(lambda x: activation.function(x) ** 4, variance, activation.kinks)
    second = gaussian_mean(lambda x: activation.function(x) ** 2, variance, activation.kinks)
    return fourth / (second * second) - 1.0


def kappa_with_shortcut(branch_kappa: float, branch_chi: float = 1.0, scale: float = 1.0) -> float:
    """The same of a block x + a branch(x): (4 a² chi + a⁴ chi² kappa) / (1 + a² chi)², for blocks of width n.

    The first part is the chance angle between the gradients through shortcut and branch: its cosine has the variance 1 / n. With a =
    1 / sqrt(L) the fluctuations of L blocks stay at 4 / n, whatever the depth. Simulation agrees within 15 %, at width 40.

    Args:
        branch_kappa: of the branch; the sum over its layers.
        branch_chi: of the branch.
        scale: a.

    >>> kappa_with_shortcut(5.0), round(kappa_with_shortcut(5.0, scale=0.01), 6)
    (2.25, 0.0004)
    """
    through_branch = scale * scale * branch_chi
    return (4.0 * through_branch + through_branch**2 * branch_kappa) / (1.0 + through_branch) ** 2


def log_gain(per_layer: float, widths: Sequence[int]) -> LogNormal:
    """Ln ||J u||² over layers, relative to the product of chi: N(-kappa/2 sum 1/n, kappa sum 1/n).

    The mean of ||J u||² itself is carried by rare draws: compare medians, or means of logarithms. Simulation agrees within 15 %
    (variance, at width 100) and an eighth of the standard deviation (mean, at width 40).

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

    Exact for Gaussian weights. Simulation of 3 layers of width 50 agrees within four standard errors.

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
