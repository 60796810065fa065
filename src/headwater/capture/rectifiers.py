"""Per-unit extremes of the pre-activations of rectifiers: what a rule needs to call a unit dead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headwater.capture import torch_internals

_RECTIFIERS = (nn.ReLU, nn.ReLU6)
# Modules whose output has its features in dimension 1; everything else, in torch, has them last.
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
# Autograd's nodes that leave the units where they are.
_PASS_UNITS_ON = ("Add", "Mul", "NativeBatchNorm", "NativeGroupNorm", "CudnnBatchNorm")
_MOST_NODES_BACK = 4


def is_rectifier(module: nn.Module) -> bool:
    """Whether the module passes no gradient for a negative input."""
    return isinstance(module, _RECTIFIERS)


def has_channels_first(preactivation: Tensor, producer: nn.Module | None) -> bool:
    """Whether the features of a rectifier's input are in dimension 1, not in the last one.

    Args:
        preactivation: the input, with its place in autograd's graph.
        producer: the module that made it, which tells. Unknown: a convolution that autograd knows a few sums and norms
            behind it, or 4 or 5 dimensions, as images have.
    """
    if preactivation.dim() < 3:
        return False
    if producer is not None:
        return isinstance(producer, _CHANNELS_FIRST)
    return preactivation.dim() in (4, 5) or _comes_of_a_convolution(preactivation)


def unit_extremes(preactivation: Tensor, *, channels_first: bool) -> tuple[Tensor, Tensor, int] | None:
    """Smallest and largest value per unit, and how many entries a unit has; None where there are no units.

    Args:
        preactivation: the rectifier's input, shape (batch, ..., units) or (batch, units, ...).
        channels_first: the second of the two.
    """
    dims = preactivation.dim()
    if dims < 2 or not preactivation.numel() or not preactivation.is_floating_point():
        return None
    unit_dim = 1 if channels_first else dims - 1
    others = [dim for dim in range(dims) if dim != unit_dim]
    with torch_internals.without_function_modes():
        values = preactivation.detach()
        minimum, maximum = torch.amin(values, others), torch.amax(values, others)
    return minimum, maximum, values.numel() // values.size(unit_dim)


def _comes_of_a_convolution(tensor: Tensor) -> bool:
    node = tensor.grad_fn
    for _ in range(_MOST_NODES_BACK):
        name = "" if node is None else torch_internals.node_name(node)
        if name == "Convolution":
            return True
        if node is None or not name.startswith(_PASS_UNITS_ON) or not node.next_functions:
            return False
        node = node.next_functions[0][0]
    return False
