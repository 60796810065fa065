"""Cuts a batch into equal slices along its first dimension: the parts whose own gradients can be told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from headwater.capture.problem import Problem
from headwater.capture.structure import map_tensors, named_tensors


class CannotTellApartError(ValueError):
    """The samples of a batch cannot be told apart; the message is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a batch is cut: every tensor whose first dimension is the batch's is, and every other stays whole.

    Args:
        size: samples in the batch.
        number: slices.
        length: samples in each; a few at the end of the batch may be in none.
    """

    size: int
    number: int
    length: int

    @classmethod
    def of(cls, problem: Problem, most: int) -> Self:
        """Up to `most` slices, and not fewer than half of that where there are samples enough: as leaves out the fewest.

        Raises:
            CannotTellApartError: there are no two samples, or no two are asked for.

        >>> import torch
        >>> def of(size):
        ...     return Cutting.of(Problem(torch.nn.Linear(1, 1), torch.ones(size, 1)), 16)
        >>> of(8), of(64), of(31)
        (Cutting(size=8, number=8, length=1), Cutting(size=64, number=16, length=4), Cutting(size=31, number=15, length=2))
        """
        size = batch_size(problem.inputs)
        if size < 2:
            raise CannotTellApartError("there is but one sample in the batch")
        if most < 2:
            raise CannotTellApartError("one sample alone, as samples=1 asks for, has no other to be compared with")
        number = size if size <= most else min(range(most, most // 2, -1), key=lambda n: size % n)
        return cls(size, number, size // number)

    def cuts(self, tensor: Tensor) -> bool:
        """Whether the first dimension of the tensor is that of the batch."""
        return tensor.dim() > 0 and len(tensor) == self.size

    def stacked(self, tensor: Tensor) -> Tensor:
        """The slices of one tensor: shape (number, length, ...)."""
        return tensor[: self.number * self.length].reshape(self.number, self.length, *tensor.shape[1:])

    def part(self, problem: Problem, start: int, stop: int) -> Problem:
        """The problem with the samples from `start` to `stop`.

        >>> import torch
        >>> whole = Problem(torch.nn.Linear(3, 1), torch.ones(8, 3), torch.ones(8, 1), torch.nn.MSELoss())
        >>> part = Cutting.of(whole, 4).part(whole, 0, 2)
        >>> part.inputs.shape, part.targets.shape
        (torch.Size([2, 3]), torch.Size([2, 1]))
        """
        return mapped(problem, lambda tensor: tensor[start:stop] if self.cuts(tensor) else tensor)

    def parts(self, problem: Problem) -> list[Problem]:
        """All slices."""
        starts = range(0, self.number * self.length, self.length)
        return [self.part(problem, start, start + self.length) for start in starts]


def batch_size(inputs: Any) -> int:
    """Length of the first dimension of the first tensor of the inputs that has one.

    Raises:
        CannotTellApartError: there is no such tensor.

    >>> import torch
    >>> batch_size({"scale": torch.ones(()), "x": torch.ones(8, 3)})
    8
    """
    for _, tensor in named_tensors(inputs):
        if tensor.dim():
            return len(tensor)
    raise CannotTellApartError("the inputs hold no tensor with a batch dimension")


def mapped(problem: Problem, change: Callable[[Tensor], Tensor]) -> Problem:
    """The problem with every tensor of its inputs and targets replaced, in a fixed order.

    >>> import torch
    >>> mapped(Problem(torch.nn.Linear(1, 1), (torch.ones(1), 2)), lambda tensor: tensor + 1).inputs
    (tensor([2.]), 2)
    """
    inputs = dict(problem.inputs) if isinstance(problem.inputs, Mapping) else problem.inputs
    return replace(problem, inputs=map_tensors(inputs, change), targets=map_tensors(problem.targets, change))
