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


def is_rectifier(module: nn.Module) -> bool:
    """Whether the module passes no gradient for a negative input."""
    return isinstance(module, _RECTIFIERS)


def unit_extremes(preactivation: Tensor, producer: nn.Module | None) -> tuple[Tensor, Tensor, int] | None:
    """Smallest and largest value per unit, and how many entries a unit has; None where there are no units.

    Args:
        preactivation: the rectifier's input, shape (batch, ..., units) or (batch, units, ...).
        producer: the module that made it, which tells where the units are. Unknown: dimension 1 of an image-like
            tensor (4 or 5 dimensions), the last dimension otherwise.
    """
    dims = preactivation.dim()
    if dims < 2 or not preactivation.numel() or not preactivation.is_floating_point():
        return None
    channels_first = isinstance(producer, _CHANNELS_FIRST) if producer is not None else dims in (4, 5)
    unit_dim = 1 if channels_first and dims > 2 else dims - 1
    others = [dim for dim in range(dims) if dim != unit_dim]
    with torch_internals.without_function_modes():
        values = preactivation.detach()
        minimum, maximum = torch.amin(values, others), torch.amax(values, others)
    return minimum, maximum, values.numel() // values.size(unit_dim)
