"""Recurrent networks: one cell, called once a time step, and a linear layer that reads the last state."""

from __future__ import annotations

import torch
from torch import nn

from headwater.networks.activation_functions import activation_module
from headwater.networks.empty_layers import empty_linear
from headwater.networks.input_check import check_input
from headwater.networks.layer_plan import LayerPlan, Role
from headwater.networks.specification import NetworkSpec

_PARTS = {"rnn": 1, "gru": 3, "lstm": 4}

State = tuple[torch.Tensor, ...]


class RNNCell(nn.Module):
    """h' = act(W_ih x + b_ih + W_hh h + b_hh); nn.RNNCell, with any activation.

    Args:
        spec: of the network.
    """

    num_states = 1

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.input, self.hidden = empty_linear(spec.num_inputs, spec.width), empty_linear(spec.width, spec.width)
        self.activation = activation_module(spec.activation)

    def forward(self, x: torch.Tensor, state: State) -> State:
        """The state after a step, (h',)."""
        return (self.activation(self.input(x) + self.hidden(state[0])),)


class GRUCell(nn.Module):
    """h' = (1 - z) n + z h with n = act(W_in x + b_in + r (W_hn h + b_hn)); nn.GRUCell, where the activation is tanh.

    Reset gate r, update gate z and n are stacked in the weights in this order.

    Args:
        spec: of the network.
    """

    num_states = 1

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.input = empty_linear(spec.num_inputs, 3 * spec.width)
        self.hidden = empty_linear(spec.width, 3 * spec.width)
        self.activation = activation_module(spec.activation)

    def forward(self, x: torch.Tensor, state: State) -> State:
        """The state after a step, (h',)."""
        (h,) = state
        reset_x, update_x, new_x = self.input(x).chunk(3, dim=-1)
        reset_h, update_h, new_h = self.hidden(h).chunk(3, dim=-1)
        new = self.activation(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        update = torch.sigmoid(update_x + update_h)
        return ((1.0 - update) * new + update * h,)


class LSTMCell(nn.Module):
    """c' = f c + i act(g) and h' = o act(c'); nn.LSTMCell, where the activation is tanh. No bias is added to the forget gate.

    Gates i, f, the new content g and gate o are stacked in the weights in this order.

    Args:
        spec: of the network.
    """

    num_states = 2

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.input = empty_linear(spec.num_inputs, 4 * spec.width)
        self.hidden = empty_linear(spec.width, 4 * spec.width)
        self.activation, self.output_activation = activation_module(spec.activation), activation_module(spec.activation)

    def forward(self, x: torch.Tensor, state: State) -> State:
        """The states after a step, (h', c')."""
        h, c = state
        write, keep, content, show = (self.input(x) + self.hidden(h)).chunk(4, dim=-1)
        c = torch.sigmoid(keep) * c + torch.sigmoid(write) * self.activation(content)
        return torch.sigmoid(show) * self.output_activation(c), c


_CELLS = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


class RecurrentNet(nn.Module):
    """One `cell`, unrolled from a state of zeros, and the linear output layer `head` on its last h.

    Args:
        spec: of family "rnn", "gru" or "lstm".
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_steps, self.num_inputs, self.width = spec.depth, spec.num_inputs, spec.width
        self.cell = _CELLS[spec.family](spec)
        self.head = empty_linear(spec.width, spec.num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output, (batch, num_outputs), for x of (batch, depth, num_inputs).

        Raises:
            ValueError: the input has another shape.
        """
        check_input(x, ("batch", self.num_steps, self.num_inputs))
        state = tuple(x.new_zeros(len(x), self.width) for _ in range(self.cell.num_states))
        for step in x.unbind(dim=1):
            state = self.cell(step, state)
        return self.head(state[0])


def recurrent_layers(spec: NetworkSpec) -> list[LayerPlan]:
    """The weight layers: from input to state, from state to state, and the head. Each gate's matrix is initialised for itself.

    >>> [layer.shape for layer in recurrent_layers(NetworkSpec(family="lstm", width=8))]
    [(32, 16), (32, 8), (4, 8)]
    """
    num_parts = _PARTS[spec.family]
    of_cell = [
        LayerPlan(
            module=f"cell.{name}",
            num_outputs=num_parts * spec.width,
            num_inputs=num_inputs,
            role=role,
            num_parts=num_parts,
            default_fan=spec.width,
        )
        for name, num_inputs, role in (("input", spec.num_inputs, Role.PLAIN), ("hidden", spec.width, Role.RECURRENT))
    ]
    return [*of_cell, LayerPlan(module="head", num_outputs=spec.num_outputs, num_inputs=spec.width, role=Role.HEAD)]
