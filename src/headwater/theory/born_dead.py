"""ReLU networks that are dead before training starts (Lu et al. 2019, arXiv 1903.06733).

A layer whose units are all off for an input returns a constant, and no gradient passes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def born_dead_probability(widths: Sequence[int]) -> float:
    """Probability that some ReLU layer is off as a whole for one input: 1 - prod (1 - 2^-n_l), for any symmetric initialisation.

    Given a layer's input, each unit is on with probability 1/2, whatever the scale of the weights and of symmetric biases. For a
    batch that is the probability for each of its samples, and at least that all samples lie in a dead network. Simulation agrees
    within four standard errors.

    Args:
        widths: n_l, of the layers with a ReLU; at least 1 each.

    Raises:
        ValueError: a width is below 1.

    >>> born_dead_probability([1]), round(born_dead_probability([3] * 5), 6)
    (0.5, 0.487091)
    """
    if any(width < 1 for width in widths):
        raise ValueError(f"expected widths of at least 1, got {min(widths)}")
    # As a sum of logarithms: for wide layers the probability is far below the precision of 1.
    return -math.expm1(math.fsum(_log_alive(width) for width in widths))


def greatest_depth_alive(width: int, probability: float = 0.01) -> float:
    """Number of ReLU layers of one width up to which a network is born dead with at most this probability: ln(1 - p) / ln(1 - 2^-n).

    Args:
        width: n, of every layer.
        probability: p, between 0 and 1.

    Raises:
        ValueError: the width is below 1, or the probability is none.

    >>> int(greatest_depth_alive(3)), int(greatest_depth_alive(10)), int(greatest_depth_alive(10, 0.5))
    (0, 10, 709)
    """
    if width < 1:
        raise ValueError(f"expected a width of at least 1, got {width}")
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"expected a probability from 0 to below 1, got {probability}")
    return math.log1p(-probability) / _log_alive(width)


def _log_alive(width: int) -> float:
    return math.log1p(-(2.0**-width)) if width > 1 else -math.log(2.0)
