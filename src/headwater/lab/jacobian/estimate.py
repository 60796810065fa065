"""A number for each sample with its standard error, from independent probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What was measured, one entry for each sample.

    Args:
        value: of each sample.
        error: standard error of each, over the probes; 0 where the value is exact, nan where there was one probe.
    """

    value: Array
    error: Array

    def __str__(self) -> str:
        return ", ".join(f"{value:.4g} ± {error:.2g}" for value, error in zip(self.value, self.error, strict=True))


def mean_of_probes(values: Array) -> Estimate:
    """The mean over probes, of shape (probes, samples), with its standard error.

    >>> print(mean_of_probes(np.array([[1.0], [3.0]])))
    2 ± 1
    """
    probes = len(values)
    spread = values.std(axis=0, ddof=1) if probes > 1 else np.full(values.shape[1], np.nan)
    return Estimate(values.mean(axis=0), spread / probes**0.5)


def jackknife(function: Callable[..., Array], *values: Array) -> Estimate:
    """A function of the means of several quantities, each of shape (probes, samples), freed of its bias of first order.

    Args:
        function: of means, each of shape (samples,) or (probes, samples), elementwise.
        values: of each quantity.

    >>> print(jackknife(lambda a, b: a / b, np.array([[2.0], [4.0]]), np.array([[1.0], [2.0]])))
    2 ± 0
    """
    probes = len(values[0])
    everything = function(*(value.mean(axis=0) for value in values))
    if probes == 1:
        return Estimate(everything, np.full_like(everything, np.nan))
    without_one = function(*((value.sum(axis=0) - value) / (probes - 1) for value in values))
    value = probes * everything - (probes - 1) * without_one.mean(axis=0)
    return Estimate(value, ((probes - 1) ** 2 / probes * without_one.var(axis=0, ddof=1)) ** 0.5)
