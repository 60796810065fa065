"""Why the gradients through a shortcut and through a branch that ends with an activation are not independent.

In x + phi(W x) the weights are not independent of the slopes that they cause: by Stein's lemma the mean of the branch's Jacobian over W
is E J = sigma_w² E phi'' 1 x^T / n, of rank one. In a plain stack and behind further weights it has no effect. Beside a shortcut what it
adds to the gradient, and what phi's mean adds to the stream, grows from block to block: in a network that is deep for its width
gradients grow faster than by 1 + chi. A stream that has more where a unit is on, and a gradient along the stream, prefer slopes
that are not zero. All of it is measured by the cosine between both gradients.
"""

from __future__ import annotations

import math

from headwater.theory.activations import Activation
from headwater.theory.mean_field import Initialisation, chi, variance_map
from headwater.theory.quadrature import gaussian_mean

_UNIT = Initialisation(1.0)


def slope_alignment(activation: Activation, variance: float) -> float:
    """abs(E z phi'(sqrt(q) z)) / sqrt(E phi'²): norm of E J relative to sqrt(chi), between 0 and 1; 0 for odd activations.

    The largest cosine between the gradients through branch and shortcut, in the limit of wide layers.

    >>> from headwater.theory.activations import RELU, TANH
    >>> round(slope_alignment(RELU, 3.0), 9) == round(math.pi**-0.5, 9), round(slope_alignment(TANH, 1.0), 9)
    (True, 0.0)
    """
    if variance == 0.0:
        return 0.0
    slope = chi(activation, _UNIT, variance)
    mixed = gaussian_mean(lambda x: x * activation.derivative(x), variance, activation.kinks) / math.sqrt(variance)
    return abs(mixed) / math.sqrt(slope) if slope > 0.0 else 0.0


def output_alignment(activation: Activation, variance: float) -> float:
    """abs(E phi) / sqrt(E phi²): cosine of a layer's output to a vector of ones; 0 for odd activations.

    >>> from headwater.theory.activations import RELU
    >>> round(output_alignment(RELU, 2.0), 9) == round(math.pi**-0.5, 9)
    True
    """
    mean = gaussian_mean(activation.function, variance, activation.kinks)
    second_moment = variance_map(activation, _UNIT, variance)
    return abs(mean) / math.sqrt(second_moment) if second_moment > 0.0 else 0.0


def slope_preference(
    activation: Activation, variance: float, *, stream: float, stream_alignment: float = 0.0, scale: float = 1.0
) -> float:
    """E phi'² y² / (E phi'² E y²) - 1 for y = x + scale * phi(u): how much steeper phi is for a gradient along the stream y.

    Args:
        activation: at the end of the branch.
        variance: q of u.
        stream: E x², of what the block reads.
        stream_alignment: cosine of x to a vector of ones.
        scale: of the branch.

    >>> from headwater.theory.activations import LINEAR, RELU
    >>> round(slope_preference(RELU, 1.0, stream=1.0), 9), round(slope_preference(LINEAR, 1.0, stream=1.0), 9)
    (0.333333333, 0.0)
    """

    def mean_with(power: int, is_steep: bool) -> float:
        return gaussian_mean(
            lambda x: activation.function(x) ** power * (activation.derivative(x) ** 2 if is_steep else 1.0),
            variance,
            activation.kinks,
        )

    slope = mean_with(0, is_steep=True)
    mean = stream_alignment * math.sqrt(stream)
    of_steep, of_all = (
        factor * stream + 2.0 * scale * mean * mean_with(1, is_steep) + scale**2 * mean_with(2, is_steep)
        for is_steep, factor in ((True, slope), (False, 1.0))
    )
    return of_steep / (slope * of_all) - 1.0 if slope * of_all > 0.0 else 0.0
