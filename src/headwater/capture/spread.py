"""How different the samples, or the positions, of a batch still are after a module."""

from __future__ import annotations

import torch
from torch import Tensor

# Of an activation's energy, the share that differs between its rows.
SPREAD = "relative_spread"  # of the output of a call without children, and of the model's
READ_SPREAD = "relative_spread_read"  # of the input of the last layer
_MOST_ROWS, _MOST_FEATURES = 32, 4096


def relative_spread(tensor: Tensor) -> float | None:
    """Mean ||h_i - mean h||² / mean ||h_i||² over the rows of a tensor, in float64; None where that says nothing.

    0 where all rows are equal, near 1 where they are unrelated and have no common mean. Rows are samples; of sequences of features
    (three dimensions) they are the positions of all samples. At most 32 rows and 4,096 features, evenly spaced, are looked at.

    Args:
        tensor: on the CPU, with at least two dimensions.

    >>> relative_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), relative_spread(torch.ones(4, 2))
    (1.0, 0.0)
    """
    if tensor.dim() < 2 or not tensor.is_floating_point() or tensor.device.type != "cpu":
        return None
    rows = tensor.detach().reshape(-1, tensor.shape[-1]) if tensor.dim() == 3 else tensor.detach().flatten(1)
    if len(rows) < 2 or not rows.shape[1]:
        return None
    rows = rows[:: -(-len(rows) // _MOST_ROWS), :: -(-rows.shape[1] // _MOST_FEATURES)].double()
    energy = rows.square().sum()
    if not torch.isfinite(energy) or energy == 0.0:
        return None
    return float((rows - rows.mean(0)).square().sum() / energy)
