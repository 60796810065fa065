"""Measures what functional code multiplies by a parameter, and what comes of it: `x @ self.weight` is a layer as `nn.Linear` is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headwater.capture import torch_internals
from headwater.capture.computed_weights import ComputedWeights
from headwater.capture.spread import relative_spread
from headwater.capture.torch_functions import can_be_read, plain_name

# Series of a call, whose item is the operation's name: sum of the squares of what it reads, over how many; the same of its result.
MULTIPLIED = "multiplied"
SPREAD = "relative_spread_of_product"  # the share of the result's energy that differs between its rows

_PRODUCTS = (
    *("linear", "matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm", "mv", "einsum", "bilinear"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)


@dataclass(frozen=True, slots=True)
class MeasuredProduct:
    """One product with a parameter; still on its device.

    Args:
        energies: sums of squares of what was read and of what was made, shape (2,), float64.
        counts: how many entries they have.
        spread: of the result's rows; None where that says nothing.
    """

    energies: Tensor
    counts: tuple[int, int]
    spread: float | None

    def series(self) -> dict[str, Sequence[float]]:
        """The numbers by the name of their series."""
        read, made = self.energies.tolist()
        found: dict[str, Sequence[float]] = {MULTIPLIED: [read, float(self.counts[0]), made, float(self.counts[1])]}
        if self.spread is not None:
            found[SPREAD] = [self.spread]
        return found


Finish = Callable[[Any], MeasuredProduct | None]  # takes what the function returned


@functools.cache
def is_product(function: Callable[..., Any]) -> bool:
    """Whether it is a product of matrices, or a convolution, under any of its names.

    >>> is_product(torch.matmul), is_product(torch.Tensor.__matmul__), is_product(torch.mul)
    (True, True, False)
    """
    return plain_name(function) in _PRODUCTS


@torch_internals.unseen
def product_looked_at(
    args: Sequence[Any], kwargs: Mapping[str, Any], module: nn.Module, weights: ComputedWeights
) -> Finish | None:
    """What to give the result of a product to, where one factor is made of parameters alone, and another is not.

    Args:
        args: its arguments.
        kwargs: the named ones.
        module: the innermost one that is running; what torch's own do is measured at the module.
        weights: that were computed so far.
    """
    if type(module).__module__.startswith("torch.nn."):
        return None
    factors = _factors(args, kwargs)
    read = next((factor for factor in factors if not weights.include(factor)), None)
    if read is None or not any(map(weights.include, factors)) or not can_be_read(read):
        return None
    return functools.partial(_finished, _energy(read), read.numel())


@torch_internals.unseen
def parameter_multiplied(args: Sequence[Any], kwargs: Mapping[str, Any]) -> nn.Parameter | None:
    """The parameter that is a factor of a product, itself or by a view of it, and another factor is none; None otherwise.

    >>> weight = nn.Parameter(torch.ones(2, 3))
    >>> parameter_multiplied((torch.ones(4, 2), weight), {}) is weight, parameter_multiplied((weight.T, weight), {})
    (True, None)
    """
    found = [_parameter_in(factor) for factor in _factors(args, kwargs)]
    return next((one for one in found if one is not None), None) if None in found else None


def _factors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [factor for factor in _tensors((*args, *kwargs.values())) if factor.dim() > 1]


def _tensors(arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors among arguments, and in lists of them (einsum's)."""
    flat: list[Any] = []
    for argument in arguments:
        flat += argument if isinstance(argument, list | tuple) else [argument]
    return [one for one in flat if isinstance(one, Tensor)]


def _parameter_in(tensor: Tensor) -> nn.Parameter | None:
    """The parameter that a tensor is, or is a view of."""
    return next((one for one in (tensor, tensor._base) if isinstance(one, nn.Parameter)), None)


def _energy(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64).square()


@torch_internals.unseen
def _finished(read_energy: Tensor, num_read: int, result: Any) -> MeasuredProduct | None:
    if not isinstance(result, Tensor) or not can_be_read(result):
        return None
    energies = torch.stack([read_energy, _energy(result)])
    return MeasuredProduct(energies, (num_read, result.numel()), relative_spread(result))
