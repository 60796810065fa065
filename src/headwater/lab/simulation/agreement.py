"""What a formula predicts beside what random networks do: the data of a figure, and of a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """One formula over a range of one variable.

    Args:
        title: what is compared.
        variable: of the horizontal axis, with its unit if it has one.
        quantity: of the vertical axis, with its unit if it has one.
        places: values of the variable.
        simulated: of random networks, one value for each place.
        error: standard error of each over networks; 0 where there is no chance in it.
        predicted: by the formula.
        allowed: how far apart they may be at each place: the formula's stated tolerance.
    """

    title: str
    variable: str
    quantity: str
    places: tuple[float, ...]
    simulated: tuple[float, ...]
    error: tuple[float, ...]
    predicted: tuple[float, ...]
    allowed: tuple[float, ...]

    @property
    def furthest(self) -> float:
        """The largest distance between both, as a multiple of what is allowed: up to 1 they agree."""
        distances = np.abs(np.subtract(self.simulated, self.predicted)) / np.array(self.allowed)
        return float(distances.max()) if np.isfinite(distances).all() else float("inf")


def agreement(
    title: str,
    axes: tuple[str, str],
    places: Sequence[float],
    draws: Sequence[Sequence[float]],
    predicted: Sequence[float],
    *,
    tolerance: float = 0.0,
    errors_allowed: float = 0.0,
) -> Agreement:
    """The means of several draws (one list for each place) beside predictions.

    Args:
        title: what is compared.
        axes: what the variable and the quantity are called.
        places: values of the variable.
        draws: of the quantity, at each place.
        predicted: at each place.
        tolerance: allowed distance relative to the prediction.
        errors_allowed: allowed distance in standard errors, on top.

    >>> found = agreement("one", ("x", "y"), [1.0], [[1.0, 1.2]], [1.0], tolerance=0.2)
    >>> round(found.simulated[0], 9), round(found.furthest, 9)
    (1.1, 0.5)
    """
    means = [float(np.mean(each)) for each in draws]
    errors = [float(np.std(each, ddof=1) / len(each) ** 0.5) if len(each) > 1 else 0.0 for each in draws]
    allowed = [tolerance * abs(value) + errors_allowed * error for value, error in zip(predicted, errors, strict=True)]
    columns = (places, means, errors, predicted, allowed)
    return Agreement(title, *axes, *(tuple(float(value) for value in column) for column in columns))
