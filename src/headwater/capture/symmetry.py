"""Units of a layer that have the same weights and get the same gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headwater.recording import Combine, Series

_SORTED_FAST = (torch.float32, torch.float64)  # by numpy
_ROUNDINGS = 64  # of the sums of a matrix product, in units of the dtype's eps
_FIRST_COLUMNS = 16  # of weights: whose rows differ there are no twins
_MOST_SETS = 16  # of different gradients among equal weights
SYMMETRIC_UNITS = "num_symmetric_units"  # of the parameter: units, those with a twin, groups of twins


def symmetric_units(model: nn.Module) -> list[Series]:
    """For each trainable weight matrix that has twins among its rows: units, units with a twin, and groups of twins.

    Twins have equal incoming weights and biases, bit for bit, and gradients of both that are equal up to rounding and not all
    zero: an optimiser moves them alike for ever. Rows are units; of embeddings and of grouped convolutions they are not, and these are left out.

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
            counts = _twins(module, item, weight)
            if counts is not None:
                found.append(Series(SYMMETRIC_UNITS, place, -1, item, Combine.MINIMUM, np.array(counts, dtype=float)))
    return found


def _is_matrix(weight: Tensor) -> bool:
    return (
        not is_lazy(weight)
        and weight.dim() >= 2
        and len(weight) >= 2
        and weight.requires_grad
        and weight.grad is not None
        and weight.layout is torch.strided
        and weight.grad.layout is torch.strided
        and weight.device.type != "meta"
        and type(weight.data) is Tensor  # a distributed one has but some of its rows here
    )


def _rows(module: nn.Module, item: str, weight: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen units' weights and biases, and their gradients: shape (chosen, anything) each."""
    values, gradients = [weight.detach()], [weight.grad]
    bias = module._parameters.get(item.replace("weight", "bias"))
    if bias is not None and bias is not weight and bias.shape == (len(weight),):
        values.append(bias.detach())
        gradients.append(bias.grad)
    flat = [
        torch.cat([part[chosen].reshape(len(chosen), -1) for part in parts if part is not None], 1)
        for parts in (values, gradients)
    ]
    return flat[0], flat[1]


def _twins(module: nn.Module, item: str, weight: Tensor) -> tuple[int, int, int] | None:
    """Units, units with a twin, groups of twins; None where no unit has one. Mostly a sum over the first columns decides."""
    matrix = weight.detach().reshape(len(weight), -1)
    candidates = _with_equal_sums(matrix[:, :_FIRST_COLUMNS])
    if len(candidates) > 1 and matrix.shape[1] > _FIRST_COLUMNS:
        candidates = candidates[_with_equal_sums(matrix[candidates])]
    if len(candidates) < 2:
        return None
    values, gradients = _rows(module, item, weight, candidates)
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
    return (len(weight), num_twins, num_groups) if num_twins else None


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
