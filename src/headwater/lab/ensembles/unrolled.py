"""A recurrent network as a stack of its time steps, so that each step has a weight gradient of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headwater.networks.recurrent import RecurrentNet
from headwater.networks.specification import NetworkSpec


class Step(nn.Module):
    """One time step: the cell's states, side by side in one tensor, to the next ones.

    Args:
        cell: of `RecurrentNet`.
    """

    def __init__(self, cell: nn.Module, num_states: int) -> None:
        super().__init__()
        self.cell, self.num_states = cell, num_states

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """(samples, states x width), for x of (samples, num_inputs)."""
        return torch.cat(self.cell(x, states.chunk(self.num_states, dim=-1)), dim=-1)


class UnrolledNet(nn.Module):
    """What `RecurrentNet` computes, by `steps.0`, `steps.1` ... that each have their own copy of the cell's parameters.

    Args:
        spec: of family "rnn", "gru" or "lstm".
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        nets = [RecurrentNet(spec) for _ in range(spec.depth)]
        self.width, self.num_states = spec.width, nets[0].cell.num_states
        self.steps = nn.ModuleList(Step(net.cell, self.num_states) for net in nets)
        self.head = nets[0].head

    def forward(self, x: Tensor) -> Tensor:
        """The output, (samples, num_outputs), for x of (samples, depth, num_inputs)."""
        states = x.new_zeros(len(x), self.num_states * self.width)
        for step, x_now in zip(self.steps, x.unbind(dim=1), strict=True):
            states = step(x_now, states)
        return self.head(states[..., : self.width])


def unrolled_parameters(spec: NetworkSpec, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A recurrent network's parameters under the names of `UnrolledNet`; the steps' are the same tensors' views.

    >>> spec = NetworkSpec(family="rnn", depth=2)
    >>> list(unrolled_parameters(spec, {"cell.input.weight": torch.ones(3), "head.bias": torch.ones(1)}))
    ['steps.0.cell.input.weight', 'steps.1.cell.input.weight', 'head.bias']
    """
    names = {
        name: [f"steps.{step}.{name}" for step in range(spec.depth)] if name.startswith("cell.") else [name]
        for name in parameters
    }
    return {unrolled: parameters[name].detach() for name, copies in names.items() for unrolled in copies}
