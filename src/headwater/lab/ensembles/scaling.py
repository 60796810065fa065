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
_SMALL_SQUARES = 1e-140  # norms below it may have lost squares below float64's smallest normal value, 2e-308
LOG10_2 = math.log10(2.0)


def norms(stack: Tensor) -> Floats:
    """The norm of each network's tensor; the first dimension counts networks.

    Summed in float64: in float32 the squares of 1e-25 are 0, those of 1e25 inf. Float64's own are scaled where that is not enough.

    >>> norms(torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])).round(36)
    array([5.e-30, 0.e+00])
    >>> norms(torch.tensor([[3e-300, 4e-300]], dtype=torch.float64))
    array([5.e-300])
    """
    dimensions = _all_but_first(stack)
    sizes = torch.linalg.vector_norm(stack, dim=dimensions, dtype=torch.float64).numpy(force=True)
    if stack.dtype != torch.float64 or not ((sizes < _SMALL_SQUARES) | np.isinf(sizes)).any():
        return sizes
    largest = stack.abs().amax(dimensions, keepdim=True)
    is_scalable = (largest > 0.0) & largest.isfinite()
    units = torch.where(is_scalable, largest, 1.0)
    scaled = torch.linalg.vector_norm(stack / units, dim=dimensions)
    return (scaled * units.flatten()).numpy(force=True)


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
    return stack.abs().mean(_all_but_first(stack), dtype=torch.float64).numpy(force=True)


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
    is_away = np.isfinite(sizes) & (sizes > 0.0) & ((sizes < _SMALLEST) | (sizes > _LARGEST))
    if not is_away.any():
        return gradients, exponents
    shifts = np.where(is_away, np.frexp(np.where(is_away, sizes, 1.0))[1], 0).astype(np.int64)
    factors = torch.from_numpy(np.ldexp(np.ones(len(sizes)), -shifts)).to(gradients.device)
    # In float64, where the power of two that lifts a subnormal float32 exists.
    lifted = gradients.double() * factors.view(-1, *[1] * (gradients.ndim - 1))
    return lifted.to(gradients.dtype), exponents + shifts


def _all_but_first(stack: Tensor) -> tuple[int, ...]:
    return tuple(range(1, stack.ndim))
