"""How the signal and its gradient change from layer to layer in a wide random network.

Weights ~ N(0, sigma_w² / fan_in), biases ~ N(0, sigma_b²), q is the variance of a pre-activation (Poole et al. 2016, arXiv
1606.05340; Schoenholz et al. 2017, arXiv 1611.01232). Only variances matter in the limit of wide layers, so uniform weights
of the same variance behave alike. At finite width a measured rate scatters around these: see `finite_width`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from headwater.theory.activations import Activation
from headwater.theory.quadrature import gaussian_mean, gaussian_mean_of_product

_MAX_STEPS = 100_000
_TOLERANCE = 1e-13


@dataclass(frozen=True, slots=True)
class Initialisation:
    """Variances of a layer's random parameters.

    Args:
        weight_variance: sigma_w², the variance of a weight times fan_in.
        bias_variance: sigma_b², that of a bias.
    """

    weight_variance: float
    bias_variance: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("weight_variance", self.weight_variance), ("bias_variance", self.bias_variance)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"expected {name} to be a number and not negative, got {value}")


def pytorch_default(fan_in: int) -> Initialisation:
    """What nn.Linear and nn.Conv*d start with: weights and biases U(±1/sqrt(fan_in)).

    sigma_w² = 1/3 and sigma_b² = 1 / (3 fan_in).

    >>> pytorch_default(300).bias_variance == 1 / 900
    True
    """
    if fan_in < 1:
        raise ValueError(f"expected a fan_in of at least 1, got {fan_in}")
    return Initialisation(1.0 / 3.0, 1.0 / (3.0 * fan_in))


def variance_map(activation: Activation, initialisation: Initialisation, variance: float) -> float:
    """Variance of the next layer's pre-activations: sigma_w² E phi(sqrt(q) z)² + sigma_b² (Poole et al. 2016, eq. 3).

    >>> from headwater.theory.activations import RELU
    >>> round(variance_map(RELU, Initialisation(2.0), 3.0), 9)
    3.0
    """
    second_moment = gaussian_mean(lambda x: activation.function(x) ** 2, variance, activation.kinks)
    return initialisation.weight_variance * second_moment + initialisation.bias_variance


def chi(activation: Activation, initialisation: Initialisation, variance: float) -> float:
    """Mean squared singular value of a layer's Jacobian: sigma_w² E phi'(sqrt(q) z)² (Schoenholz et al. 2017, eq. 4).

    E ||delta^l||² = chi ||delta^(l+1)||²: below 1 gradients vanish, above 1 they explode. Simulation of tanh with sigma_w² from 1 to 4
    agrees within 3 %, at width 400; one layer of any activation within 5 %, at width 1000.

    >>> from headwater.theory.activations import TANH
    >>> round(chi(TANH, Initialisation(1.0), 0.0), 9)
    1.0
    """
    slope = gaussian_mean(lambda x: activation.derivative(x) ** 2, variance, activation.kinks)
    return initialisation.weight_variance * slope


def gradient_factor(activation: Activation, initialisation: Initialisation, variance: float) -> float:
    """sqrt(chi): what a layer multiplies the norm of the gradient by.

    >>> from headwater.theory.activations import LINEAR
    >>> round(gradient_factor(LINEAR, pytorch_default(64), 1.0), 4)
    0.5774
    """
    return math.sqrt(chi(activation, initialisation, variance))


def fixed_point(activation: Activation, initialisation: Initialisation, *, start: float = 1.0) -> float:
    """The variance q* that the variance map ends at; inf where it grows without bound.

    By iteration from `start`, as a signal does layer after layer. A map that neither grows nor shrinks (He-ReLU) ends where it starts.

    >>> from headwater.theory.activations import TANH
    >>> round(fixed_point(TANH, Initialisation((5 / 3) ** 2)), 6)
    1.17848
    """
    variance = start
    for _ in range(_MAX_STEPS):
        following = variance_map(activation, initialisation, variance)
        if following > 1e12:
            return math.inf
        if abs(following - variance) <= _TOLERANCE * max(variance, 1e-300) or following < 1e-30:
            return following if following >= 1e-30 else 0.0
        variance = _accelerated(activation, initialisation, variance, following)
    return variance


def _accelerated(activation: Activation, initialisation: Initialisation, variance: float, following: float) -> float:
    """Aitken's step, where it stays between the neighbours of the plain one: near criticality plain steps crawl."""
    after = variance_map(activation, initialisation, following)
    bend = after - 2.0 * following + variance
    if bend == 0.0:
        return following
    guess = variance - (following - variance) ** 2 / bend
    low, high = 0.25 * min(variance, following), 4.0 * max(variance, following)
    return guess if low <= guess <= high else following


def variances(activation: Activation, initialisation: Initialisation, first: float, num_layers: int) -> list[float]:
    """The variances of the pre-activations of `num_layers` layers, the first of which has variance `first`.

    >>> from headwater.theory.activations import LINEAR
    >>> variances(LINEAR, Initialisation(0.5), 1.0, 3)
    [1.0, 0.5, 0.25]
    """
    return list(_variances(activation, initialisation, first, num_layers))


def _variances(
    activation: Activation, initialisation: Initialisation, first: float, num_layers: int
) -> Iterator[float]:
    variance = first
    for _ in range(num_layers):
        yield round(variance, 15) if variance > 1e-3 else variance
        variance = variance_map(activation, initialisation, variance)


def total_chi(activation: Activation, initialisation: Initialisation, first: float, num_layers: int) -> float:
    """The product of chi over layers, each at its own variance: E ||delta||² at the first over that behind the last.

    >>> from headwater.theory.activations import LINEAR
    >>> total_chi(LINEAR, Initialisation(0.5), 1.0, 3)
    0.125
    """
    found = variances(activation, initialisation, first, num_layers)
    return math.prod(chi(activation, initialisation, variance) for variance in found)


def depth_scale(factor: float) -> float:
    """Xi = 1 / abs(ln x): the number of layers over which x^l changes by a factor of e; inf for x = 1, 0 for x = 0.

    Of chi it is the depth scale of gradients, of the correlation map's slope that of information (Schoenholz et al. 2017, eq.
    9); a network trains to about 6 of the latter.

    >>> round(depth_scale(math.exp(-0.1)), 9)
    10.0
    """
    if not factor >= 0.0:
        raise ValueError(f"expected a factor that is not negative, got {factor}")
    if factor in (0.0, math.inf):
        return 0.0
    return math.inf if factor == 1.0 else 1.0 / abs(math.log(factor))


def correlation_map(
    activation: Activation, initialisation: Initialisation, variance: float, correlation: float
) -> float:
    """Correlation of two inputs' pre-activations after one more layer (Poole et al. 2016, eq. 5), at a fixed point.

    Args:
        activation: of the layers.
        initialisation: of the layers.
        variance: q* of both.
        correlation: before the layer.

    >>> from headwater.theory.activations import LINEAR
    >>> round(correlation_map(LINEAR, Initialisation(1.0), 1.0, 0.3), 9)
    0.3
    """
    product = gaussian_mean_of_product(activation.function, variance, correlation, activation.kinks)
    return (initialisation.weight_variance * product + initialisation.bias_variance) / variance


def chi_with_layer_norm(activation: Activation) -> float:
    """Chi of a layer whose input is normalised to variance 1 by LayerNorm or RMSNorm: E phi'² / E phi², any sigma_w.

    Linear -> norm -> phi: the norm divides by the root of sigma_w² E phi², which chi is multiplied by.

    >>> from headwater.theory.activations import RELU, TANH
    >>> round(chi_with_layer_norm(RELU), 9), round(chi_with_layer_norm(TANH), 6)
    (1.0, 1.177807)
    """
    unit = Initialisation(1.0)
    return chi(activation, unit, 1.0) / variance_map(activation, unit, 1.0)


def chi_with_shortcut(branch_chi: float, scale: float = 1.0, cosine: float = 0.0) -> float:
    """Chi of x + scale * branch(x): 1 + scale² chi of the branch (Yang & Schoenholz 2017, arXiv 1712.08969).

    Plus 2 cosine scale sqrt(chi), where the gradients through branch and shortcut have an angle: none in the limit of wide
    layers, but see `headwater.theory.alignment`.

    >>> chi_with_shortcut(1.0), chi_with_shortcut(1.0, scale=0.5), chi_with_shortcut(1.0, cosine=0.25)
    (2.0, 1.25, 2.5)
    """
    return 1.0 + scale * scale * branch_chi + 2.0 * cosine * abs(scale) * math.sqrt(branch_chi)


def shortcut_growth(num_blocks: int, scale: float = 1.0, branch_gain: float = 1.0) -> float:
    """What the variance grows by over blocks of x + scale * branch(x), whose branches multiply it by `branch_gain`.

    2^L for scale 1, about e for scale 1 / sqrt(L). With a norm before the branch, which makes its output 1 whatever comes in, it
    is 1 + L instead.

    >>> shortcut_growth(10), round(shortcut_growth(1000, scale=1000**-0.5), 3)
    (1024.0, 2.717)
    """
    return (1.0 + scale * scale * branch_gain) ** num_blocks


def critical_initialisation(activation: Activation, variance: float) -> Initialisation:
    """The initialisation for which a variance is a fixed point and chi is 1 there: sigma_w² = 1 / E phi'².

    The edge of chaos, at which gradients neither vanish nor explode (Schoenholz et al. 2017, section 3).

    Raises:
        ValueError: there is none: it would need a negative sigma_b².

    >>> from headwater.theory.activations import RELU
    >>> critical_initialisation(RELU, 1.0)
    Initialisation(weight_variance=2.0, bias_variance=0.0)
    """
    weight_variance = 1.0 / chi(activation, Initialisation(1.0), variance)
    signal = variance_map(activation, Initialisation(weight_variance), variance)
    bias_variance = round(variance - signal, 12)
    if bias_variance < 0.0:
        raise ValueError(f"{activation.name} has no critical initialisation with the variance {variance}")
    return Initialisation(round(weight_variance, 12), abs(bias_variance))


def critical_weight_variance(activation: Activation, bias_variance: float) -> float:
    """sigma_w² on the critical line of a saturating activation (tanh, erf) for a sigma_b²: where chi is 1 at q*.

    By bisection over the variance: on the line, sigma_b² grows with q*. Simulation of tanh has chi within 3 % of 1 there, at width 400.

    Raises:
        ValueError: the line does not reach this sigma_b², or it is none.

    >>> from headwater.theory.activations import TANH
    >>> round(critical_weight_variance(TANH, 0.05), 6)
    1.760955
    """
    if not 0.0 <= bias_variance < math.inf:
        raise ValueError(f"expected a bias variance that is a number and not negative, got {bias_variance}")
    low, high = 1e-12, 1.0
    while _bias_on_line(activation, high) < bias_variance:
        high *= 2.0
        if high > 1e6:
            raise ValueError(
                f"the critical line of {activation.name} does not reach a bias variance of {bias_variance}"
            )
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _bias_on_line(activation, middle) < bias_variance else (low, middle)
    return 1.0 / chi(activation, Initialisation(1.0), high)


def _bias_on_line(activation: Activation, variance: float) -> float:
    weight_variance = 1.0 / chi(activation, Initialisation(1.0), variance)
    return variance - variance_map(activation, Initialisation(weight_variance), variance)
