"""What the output of a fused recurrent module tells of the activations inside: a tanh's derivative is 1 - h², a ReLU's output is zero.

The gates of nn.LSTM and nn.GRU are in no output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from headwater.capture.rectifiers import unit_extremes

# Series of a call, one for each layer of the module, whose item is the layer's number: the sum of the derivative, over how many.
DERIVATIVE_INSIDE = "tanh_derivative_inside"


def tanh_derivatives(module: nn.Module, output: Any) -> dict[str, Tensor]:
    """Sum of 1 - h² and number of entries by layer; of all steps for the last one, of the final state for those below.

    Args:
        module: nothing is known of any but nn.RNN and nn.RNNCell with tanh.
        output: what it returned.

    >>> rnn = nn.RNN(2, 3, num_layers=2)
    >>> {layer: int(values[1]) for layer, values in tanh_derivatives(rnn, rnn(torch.ones(7, 5, 2))).items()}
    {'0': 15, '1': 105}
    """
    if isinstance(module, nn.RNNCell) and module.nonlinearity == "tanh" and isinstance(output, Tensor):
        return {"0": _derivative(output)}
    if not isinstance(module, nn.RNN) or module.mode != "RNN_TANH":
        return {}
    data, final = _parts(output)
    below = final.unflatten(0, (module.num_layers, -1))[:-1]
    return {str(layer): _derivative(h) for layer, h in enumerate((*below, data))}


def rectified_units(module: nn.Module, output: Any) -> tuple[Tensor, Tensor, int] | None:
    """Smallest and largest output of each unit of the last layer, and its number of entries; None of all but nn.RNN with ReLU.

    Where a unit's largest output is zero, its pre-activation was never positive; by how much is not known.

    >>> rnn = nn.RNN(2, 3, nonlinearity="relu")
    >>> minimum, maximum, num_entries = rectified_units(rnn, rnn(torch.ones(7, 5, 2)))
    >>> minimum.shape, num_entries
    (torch.Size([3]), 35)
    """
    if not isinstance(module, nn.RNN) or module.mode != "RNN_RELU":
        return None
    return unit_extremes(_parts(output)[0], channels_first=False)


def _parts(output: Any) -> tuple[Tensor, Tensor]:
    sequence, final = output
    return (sequence.data if isinstance(sequence, PackedSequence) else sequence), final


def _derivative(h: Tensor) -> Tensor:
    values = h.detach()
    total = (1.0 - values * values).sum(dtype=torch.float64)
    return torch.stack([total, torch.full_like(total, float(values.numel()))])
