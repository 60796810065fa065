"""Moments of the squared singular values of a Jacobian, from random directions (Hutchinson 1989)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from headwater.lab.jacobian.estimate import Estimate, jackknife, mean_of_probes
from headwater.lab.jacobian.operator import Operator, jacobian_operator
from headwater.lab.jacobian.tensor_function import Place

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class JacobianMoments:
    """Moments of the squared singular values of each sample's Jacobian.

    Args:
        sum_of_squares: sum of s² = tr J^T J = E ||J v||², the squared Frobenius norm.
        sum_of_fourths: sum of s⁴ = tr (J^T J)² = E ||J^T J v||².
        relative_variance: m_2 / m_1² - 1 of the s², m_1 and m_2 their mean and mean square over min(inputs, outputs) singular values; nan for
            a Jacobian of zeros.
        num_inputs: of one sample.
        num_outputs: of one sample.
        is_exact: whether every direction was a basis vector: there were as many probes as inputs.
    """

    sum_of_squares: Estimate
    sum_of_fourths: Estimate
    relative_variance: Estimate
    num_inputs: int
    num_outputs: int
    is_exact: bool

    @property
    def num_singular_values(self) -> int:
        """min(inputs, outputs)."""
        return min(self.num_inputs, self.num_outputs)

    @property
    def mean_square(self) -> Estimate:
        """m_1, the mean of s²; theory has chi^L for L layers."""
        return _divided(self.sum_of_squares, self.num_singular_values)

    @property
    def mean_fourth(self) -> Estimate:
        """m_2, the mean of s⁴."""
        return _divided(self.sum_of_fourths, self.num_singular_values)


def jacobian_moments(
    model: nn.Module,
    inputs: Any,
    *,
    layer: Place | None = None,
    output: Place | Callable[[Any], Tensor] | None = None,
    probes: int = 16,
    whole: bool = False,
    seed: int = 0,
) -> JacobianMoments:
    """First and second moment of the squared singular values of each sample's Jacobian, without the Jacobian.

    From E ||J v||² and E ||J^T J v||² over random signs v: one product with J and one with its transpose for each probe, for all
    samples at once. With as many probes as inputs the directions are the basis instead, and the moments exact.

    Args:
        model: the network; nothing of it has changed afterwards.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        layer: differentiate by this module's output, or by that of its n-th call: (module, n); by the model's input for None.
        output: differentiate this module's output, or a function of the model's output; the model's output for None.
        probes: random directions, at least 1; the standard errors need 2.
        whole: one Jacobian of the whole batch, instead of one for each sample.
        seed: of the directions, and of the model's own random numbers.

    Raises:
        ProblemError: the model cannot be run or differentiated this way, or samples influence one another.
        ValueError: there is no probe.

    >>> import torch
    >>> moments = jacobian_moments(nn.Flatten(), torch.ones(1, 2))
    >>> moments.is_exact, moments.num_singular_values
    (True, 2)
    """
    if probes < 1:
        raise ValueError(f"expected at least 1 probe, got {probes}")
    with jacobian_operator(model, inputs, layer=layer, output=output, whole=whole, seed=seed) as jacobian:
        is_exact = probes >= jacobian.num_inputs
        pairs = [_squares(jacobian, direction) for direction in _directions(jacobian, probes, seed)]
        squares, fourths = (np.array(values) for values in zip(*pairs, strict=True))
        return _moments(squares, fourths, jacobian, is_exact=is_exact)


def partial_jacobian_norm(
    model: nn.Module,
    inputs: Any,
    *,
    layer: Place | None = None,
    output: Place | Callable[[Any], Tensor] | None = None,
    probes: int = 16,
    whole: bool = False,
    seed: int = 0,
) -> Estimate:
    """||dh^l / dh^l0||_F² / N_l of each sample: 1 for every pair of layers of a network at criticality.

    N_l is the number of outputs. By random products with the transpose, E ||J^T u||² / N_l (Doshi et al. 2021, arXiv 2111.12143): needs one
    backward pass for each probe, and no second derivative.

    Args:
        model: the network; nothing of it has changed afterwards.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        layer: l0, a module or (module, number of the call); the model's input for None.
        output: l, a module, or a function of the model's output; the model's output for None.
        probes: random cotangents, at least 1; the standard errors need 2.
        whole: one Jacobian of the whole batch, instead of one for each sample.
        seed: of the cotangents, and of the model's own random numbers.

    Raises:
        ProblemError: the model cannot be run or differentiated, or samples influence one another.
        ValueError: there is no probe.

    >>> import torch
    >>> print(partial_jacobian_norm(nn.Flatten(), torch.ones(1, 4)))
    1 ± 0
    """
    if probes < 1:
        raise ValueError(f"expected at least 1 probe, got {probes}")
    with jacobian_operator(
        model, inputs, layer=layer, output=output, whole=whole, seed=seed, with_forward=False
    ) as jacobian:
        generator = np.random.default_rng(seed)
        shape = (jacobian.num_samples, jacobian.num_outputs)
        products = [jacobian.transposed_times(_signs(generator, shape)) for _ in range(probes)]
        return mean_of_probes(
            np.array([(product**2).mean(axis=1) for product in products]) * (jacobian.num_inputs / jacobian.num_outputs)
        )


def _directions(jacobian: Operator, probes: int, seed: int) -> Iterator[Array]:
    shape = (jacobian.num_samples, jacobian.num_inputs)
    if probes >= jacobian.num_inputs:
        for place in range(jacobian.num_inputs):
            direction = np.zeros(shape)
            direction[:, place] = jacobian.num_inputs**0.5  # so that the mean over the basis is the trace
            yield direction
    else:
        generator = np.random.default_rng(seed)
        for _ in range(probes):
            yield _signs(generator, shape)


def _signs(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    return generator.choice((-1.0, 1.0), shape)


def _squares(jacobian: Operator, direction: Array) -> tuple[Array, Array]:
    """||J v||² and ||J^T J v||² of each sample; the product between is scaled to size one on its way."""
    there = jacobian.times(direction)
    sizes = np.sqrt((there**2).mean(axis=1))
    back = jacobian.transposed_times(there / np.where(sizes > 0.0, sizes, 1.0)[:, None])
    return (there**2).sum(axis=1), sizes**2 * (back**2).sum(axis=1)


def _moments(squares: Array, fourths: Array, jacobian: Operator, *, is_exact: bool) -> JacobianMoments:
    count = min(jacobian.num_inputs, jacobian.num_outputs)

    def relative_variance(first: Array, second: Array) -> Array:
        return count * second / np.where(first > 0.0, first, np.nan) ** 2 - 1.0

    if not is_exact:
        ratio = jackknife(relative_variance, squares, fourths)
        first, second = mean_of_probes(squares), mean_of_probes(fourths)
    else:
        first, second = _exact(squares.mean(axis=0)), _exact(fourths.mean(axis=0))
        ratio = _exact(relative_variance(first.value, second.value))
    return JacobianMoments(first, second, ratio, jacobian.num_inputs, jacobian.num_outputs, is_exact)


def _exact(values: Array) -> Estimate:
    return Estimate(values, np.zeros_like(values))


def _divided(estimate: Estimate, count: int) -> Estimate:
    return Estimate(estimate.value / count, estimate.error / count)
