"""What an initialisation needs to know of a weight layer: its shape, its fans, and its place in the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """Where a weight layer stands."""

    PLAIN = "outside every branch, or in a branch but not scaled there (attention's queries and keys)"
    BRANCH = "in a branch, beside a shortcut"
    BRANCH_END = "the last weight layer of a branch"
    HEAD = "the output layer"
    GATE = "a highway's gate"
    RECURRENT = (
        "from a cell's state to its next; the biases beside the input's are zero unless PyTorch's default draws them"
    )


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
        num_parts: matrices that are stacked in the weight, as of a cell's gates; each is initialised for itself.
        reads_activation: whether it reads what an activation function returned (or the input), and not a sum of linear layers,
            for which the critical point is that of no activation.
        default_fan: what PyTorch's default takes for fan-in: a cell's state size for all its weights.
    """

    module: str
    num_outputs: int
    num_inputs: int
    kernel: tuple[int, ...] = ()
    has_bias: bool = True
    role: Role = Role.PLAIN
    num_parts: int = 1
    reads_activation: bool = True
    default_fan: int | None = None

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
        """Numbers that an input goes into, in one part."""
        return self.num_outputs // self.num_parts * math.prod(self.kernel)

    @property
    def num_weights(self) -> int:
        """Of the weight alone, without biases."""
        return self.num_outputs * self.fan_in

    @property
    def num_biases(self) -> int:
        """One an output, or none."""
        return self.num_outputs if self.has_bias else 0
