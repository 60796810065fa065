"""Norms of a stack of tensors, one per network, and gradients kept in the middle of their float format."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headwater.lab.ensembles.measurements import Floats

Integers = npt.NDArray[np.int64]

# A gradient with a norm in this range is left as it is. A layer multiplies it by less than 2**60 either way, if it is not broken, so
# its products stay inside of float32's 2**±126.
_SMALLEST, _LARGEST = 2.0**-40, 2.0**40
# Norms in this range have lost nothing: the squares that are smaller than a float could hold are too small to count.
_SAFE_NORMS = {torch.float32: (2.0**-35, 2.0**60), torch.float64: (2.0**-450, 2.0**500)}
LOG10_2 = math.log10(2.0)


def norms(stack: Tensor) -> Floats:
    """The norm of each network's tensor; the first dimension counts networks.

    Float32's squares are summed in float32, which is right to 1e-6, wherever they are safe; what is far from 1 (the square of 1e-25 is 0 in
    float32, that of 1e25 inf) in float64, and float64's own extremes are scaled.

    >>> norms(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])).round(36)
    array([5.e-30, 0.e+00])
    >>> norms(torch.tensor([[3e-300, 4e-300]], dtype=torch.float64))
    array([5.e-300])
    """
    dimensions = _all_but_first(stack)
    smallest, largest = _SAFE_NORMS[torch.float64 if stack.dtype == torch.float64 else torch.float32]
    sizes = torch.linalg.vector_norm(stack, dim=dimensions).numpy(force=True).astype(np.float64)
    if sizes.min() >= smallest and sizes.max() <= largest:  # false for nan
        return sizes
    if stack.dtype != torch.float64:
        return norms(stack.double())
    units = stack.abs().amax(dimensions, keepdim=True)
    units = torch.where((units > 0.0) & units.isfinite(), units, 1.0)
    return ((stack / units).square().sum(dimensions).sqrt() * units.flatten()).numpy(force=True)


def root_mean_squares(stack: Tensor) -> Floats:
    """The RMS of each network's tensor; nan if it is empty.

    >>> root_mean_squares(torch.tensor([[1.0, -1.0], [0.0, 2.0]])).round(4)
    array([1.    , 1.4142])
    """
    return norms(stack) / math.sqrt(stack[0].numel())


def mean_absolutes(stack: Tensor) -> Floats:
    """The mean absolute value of each network's tensor.

    >>> mean_absolutes(torch.tensor([[1.0, -2.0]]))
    array([1.5])
    """
    sums = stack.abs().sum(_all_but_first(stack)).numpy(force=True).astype(np.float64)
    if stack.dtype != torch.float64 and not np.isfinite(sums).all():
        return mean_absolutes(stack.double())
    return sums / stack[0].numel()


def recentred(gradients: Tensor, sizes: Floats, exponents: Integers) -> tuple[Tensor, Integers]:
    """Gradients whose norms are near 1 where they had left the middle of their format, and the exponents that put them back.

    The truth is `gradients * 2**exponents`, before and after: powers of two cost no bit. Deep networks whose gradient falls below
    float32's smallest value (1.4e-45) in the middle of a backward pass so keep its direction and its size.

    Args:
        gradients: one network's each in the first dimension.
        sizes: their norms, (S,).
        exponents: of what they stand for, (S,), whole numbers.

    >>> gradients = torch.tensor([[0.75 * 2.0**-100], [1.0]])
    >>> gradients, exponents = recentred(gradients, norms(gradients), np.zeros(2, dtype=int))
    >>> gradients
    tensor([[0.7500],
            [1.0000]])
    >>> exponents
    array([-100,    0])
    """
    if sizes.min() >= _SMALLEST and sizes.max() <= _LARGEST:
        return gradients, exponents
    is_away = np.isfinite(sizes) & (sizes > 0.0) & ((sizes < _SMALLEST) | (sizes > _LARGEST))
    shifts = np.where(is_away, np.frexp(np.where(is_away, sizes, 1.0))[1], 0).astype(np.int64)
    factors = torch.from_numpy(np.ldexp(np.ones(len(sizes)), -shifts)).to(gradients.device)
    # In float64, where the power of two that lifts a subnormal float32 exists.
    lifted = gradients.double() * factors.view(-1, *[1] * (gradients.ndim - 1))
    return lifted.to(gradients.dtype), exponents + shifts


def _all_but_first(stack: Tensor) -> tuple[int, ...]:
    return tuple(range(1, stack.ndim))
