"""Units of a layer that have the same weights and get the same gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headwater.recording import Combine, Series

_SORTED_FAST = (torch.float32, torch.float64)  # by numpy
_ROUNDINGS = 64  # of the sums of a matrix product, in units of the dtype's eps
_FIRST_COLUMNS = 16  # of weights: whose rows differ there are no twins
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_OF_RAW_PARAMETERS = (nn.ParameterList, nn.ParameterDict)
_MOST_SETS = 16  # of different gradients among equal weights
SYMMETRIC_UNITS = "num_symmetric_units"  # of the parameter: units, those with a twin, groups of twins


def symmetric_units(model: nn.Module) -> list[Series]:
    """For each trainable weight matrix that has twins among its units: units, units with a twin, and groups of twins.

    Twins have equal incoming weights and biases, bit for bit, and gradients of both that are equal up to rounding and not all
    zero: an optimiser moves them alike for ever. Units are the rows of torch's own layers, the second dimension of transposed
    convolutions, and rows or columns of a matrix that somebody else's code multiplies by. Of embeddings and of grouped
    convolutions neither is a unit, and these are left out.

    Args:
        model: after a backward pass, with its gradients in place.
    """
    found: list[Series] = []
    for place, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or getattr(module, "groups", 1) != 1:
            continue
        for item, weight in module._parameters.items():
            if weight is None or not _is_matrix(weight):
                continue
            along = [_twins(module, item, weight, axis) for axis in _unit_axes(module, weight)]
            counts = max((twins for twins in along if twins is not None), key=_share, default=None)
            if counts is not None:
                found.append(Series(SYMMETRIC_UNITS, place, -1, item, Combine.MINIMUM, np.array(counts, dtype=float)))
    return found


def _share(counts: tuple[int, int, int]) -> float:
    return counts[1] / counts[0]


def _is_matrix(weight: Tensor) -> bool:
    return (
        not is_lazy(weight)
        and weight.dim() >= 2
        and weight.numel() > 0
        and weight.requires_grad
        and weight.grad is not None
        and weight.layout is torch.strided
        and weight.grad.layout is torch.strided
        and weight.device.type != "meta"
        and type(weight.data) is Tensor  # a distributed one has but some of its rows here
    )


def _unit_axes(module: nn.Module, weight: Tensor) -> Sequence[int]:
    """The dimensions along which the units of a weight may lie; `x @ w` has them in the columns, `F.linear(x, w)` in the rows."""
    if isinstance(module, _TRANSPOSED):
        return (1,)
    is_known = type(module).__module__.startswith("torch.nn.") and not isinstance(module, _OF_RAW_PARAMETERS)
    return (0,) if is_known or weight.dim() > 2 else (0, 1)


def _units(part: Tensor, axis: int, chosen: Tensor) -> Tensor:
    """The chosen units of a weight, or of a bias: shape (chosen, anything)."""
    axis = axis if part.dim() > 1 else 0
    return part.index_select(axis, chosen).movedim(axis, 0).reshape(len(chosen), -1)


def _units_and_gradients(
    module: nn.Module, item: str, weight: Tensor, axis: int, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """The chosen units' weights and biases, and their gradients: shape (chosen, anything) each."""
    values, gradients = [weight.detach()], [weight.grad]
    bias = module._parameters.get(item.replace("weight", "bias"))
    if bias is not None and bias is not weight and bias.shape == (weight.shape[axis],):
        values.append(bias.detach())
        gradients.append(bias.grad)
    flat = [
        torch.cat([_units(part, axis, chosen) for part in parts if part is not None], 1)
        for parts in (values, gradients)
    ]
    return flat[0], flat[1]


def _twins(module: nn.Module, item: str, weight: Tensor, axis: int) -> tuple[int, int, int] | None:
    """Units, units with a twin, groups of twins; None where no unit has one. Mostly a sum over the first columns decides."""
    num_units = weight.shape[axis]
    if num_units < 2:
        return None
    candidates = _with_equal_sums(_first_columns(weight.detach(), axis))
    if len(candidates) > 1 and weight.numel() > num_units * _FIRST_COLUMNS:
        candidates = candidates[_with_equal_sums(_units(weight.detach(), axis, candidates))]
    if len(candidates) < 2:
        return None
    values, gradients = _units_and_gradients(module, item, weight, axis, candidates)
    moved = (gradients != 0).any(1)
    values, gradients = values[moved], gradients[moved]
    if len(values) < 2:
        return None
    _, group, sizes = torch.unique(values, dim=0, return_inverse=True, return_counts=True)
    num_twins = num_groups = 0
    for number in (sizes > 1).nonzero().reshape(-1):
        found = _sizes_of_alike(gradients[group == number])
        num_twins += sum(found)
        num_groups += len(found)
    return (num_units, num_twins, num_groups) if num_twins else None


def _first_columns(weight: Tensor, axis: int) -> Tensor:
    """Some weights of each unit, without a copy of the whole: shape (units, at most _FIRST_COLUMNS)."""
    if axis == 0:
        return weight.reshape(len(weight), -1)[:, :_FIRST_COLUMNS]
    return weight[:_FIRST_COLUMNS].movedim(axis, 0).reshape(weight.shape[axis], -1)[:, :_FIRST_COLUMNS]


def _sizes_of_alike(rows: Tensor) -> list[int]:
    """How many rows are alike, for each set of two or more; equal products of matrices differ by rounding."""
    tolerance = _ROUNDINGS * torch.finfo(rows.dtype).eps
    wide = rows.to(torch.complex128 if rows.is_complex() else torch.float64)
    sizes: list[int] = []
    for _ in range(_MOST_SETS):
        if len(wide) < 2:
            break
        alike = (wide - wide[0]).norm(dim=1) <= tolerance * wide[0].norm()
        if int(alike.sum()) > 1:
            sizes.append(int(alike.sum()))
        alike[0] = True  # also where it is NaN
        wide = wide[~alike]
    return sizes


def _are_distinct(values: Tensor) -> bool:
    """Whether no two values are equal: so it is with the first column of most weights, which says so in a tenth of the time."""
    if values.device.type != "cpu" or values.dtype not in _SORTED_FAST:
        return False
    ordered = np.sort(values.numpy())
    return not (ordered[1:] == ordered[:-1]).any()


def _with_equal_sums(matrix: Tensor) -> Tensor:
    """Indices of the rows whose sum is that of another row: equal rows have equal sums."""
    if _are_distinct(matrix[:, 0]):
        return torch.empty(0, dtype=torch.long, device=matrix.device)
    sums = matrix.sum(1)
    sums = torch.view_as_real(sums)[:, 0] if sums.is_complex() else sums
    ordered = sums.sort().values
    if not (ordered[1:] == ordered[:-1]).any():  # which says so for most weights, in half the time
        return ordered.new_empty(0, dtype=torch.long)
    _, group, counts = torch.unique(sums, return_inverse=True, return_counts=True)
    return (counts[group] > 1).nonzero().reshape(-1)
