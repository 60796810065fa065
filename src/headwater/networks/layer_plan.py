"""What an initialisation needs to know of a weight layer: its shape, its fans, and its place in the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from torch import nn


class Role(Enum):
    """Where a weight layer stands."""

    PLAIN = "outside every branch, or in a branch but not scaled there (attention's queries and keys)"
    BRANCH = "in a branch, beside a shortcut"
    BRANCH_END = "the last weight layer of a branch"
    HEAD = "the output layer"
    GATE = "a highway's gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """A weight layer.

    Args:
        module: its name in `named_modules()`.
        num_outputs: units or channels.
        num_inputs: the same of its input.
        kernel: sizes of a convolution's window; none for a linear layer.
        has_bias: whether it has biases.
        role: where it stands.
    """

    module: str
    num_outputs: int
    num_inputs: int
    kernel: tuple[int, ...] = ()
    has_bias: bool = True
    role: Role = Role.PLAIN

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return (self.num_outputs, self.num_inputs, *self.kernel)

    @property
    def fan_in(self) -> int:
        """Numbers that an output is a weighted sum of."""
        return self.num_inputs * math.prod(self.kernel)

    @property
    def fan_out(self) -> int:
        """Numbers that an input goes into."""
        return self.num_outputs * math.prod(self.kernel)

    @property
    def num_weights(self) -> int:
        """Of the weight alone, without biases."""
        return self.num_outputs * self.fan_in

    @property
    def num_biases(self) -> int:
        """One an output, or none."""
        return self.num_outputs if self.has_bias else 0


def empty_linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A linear layer with uninitialised parameters, so that no random numbers are drawn for nothing.

    >>> empty_linear(2, 3).weight.shape
    torch.Size([3, 2])
    """
    return nn.Linear(num_inputs, num_outputs, device="meta").to_empty(device="cpu")
