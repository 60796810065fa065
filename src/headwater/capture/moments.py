"""Measures the moments of any tensor in one visit, without waiting for its device.

On the CPU the statistics are there at once. On other devices they are computed there in float64, as one small vector
per tensor, and are moved together when the pass is over.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from headwater.capture import torch_internals
from headwater.capture.cpu_moments import cpu_stats, exponent_histogram, float32_stats_of_sum, fused_stats
from headwater.recording import ExponentHistogram, TensorStats

# Order of the entries of a vector of moments.
_NUMEL, _NAN, _INF, _ZERO, _SUM, _SUM_ABS, _SUM_SQUARES, _MAX_ABS, _SCALE = range(9)


_PLAIN_TYPES = (Tensor, nn.Parameter)


class UnmeasurableError(TypeError):
    """The tensor has no values that can be read: the message says why."""


def measure(tensor: Tensor, *, exponents: bool = False) -> TensorStats:
    """The statistics of a tensor on any device, at once.

    Args:
        tensor: any dtype, layout, strides and size; complex tensors are measured by modulus.
        exponents: also count the elements per binary exponent.

    Raises:
        UnmeasurableError: the tensor has no values (meta, fake, inside a functorch transform).

    >>> measure(torch.tensor([3.0, -4.0])).norm
    5.0
    >>> f"{measure(torch.tensor([3e-30, 4e-30])).norm:.6g}"
    '5e-30'
    """
    moments = measure_lazily(tensor, exponents=exponents)
    return moments if isinstance(moments, TensorStats) else stats_from_vector(moments.tolist())


def measure_lazily(tensor: Tensor, *, exponents: bool = False) -> TensorStats | Tensor:
    """The statistics of a CPU tensor, or, for another device, their vector still on that device.

    `stats_from_vector` makes statistics of the vector once it has been moved.
    """
    if not exponents and _is_plain(tensor):
        stats = fused_stats(tensor)
        if stats is not None:
            return stats
    if torch_internals.num_dispatch_modes():
        with torch_internals.without_dispatch_modes():
            return _measure(tensor, exponents)
    return _measure(tensor, exponents)


def measure_sum_lazily(tensors: list[Tensor], *, exponents: bool = False) -> TensorStats | Tensor:
    """The statistics of the sum of two or more tensors of one shape, which on the CPU is mostly never held whole."""
    if not exponents and all(map(_is_plain, tensors)):
        return float32_stats_of_sum(tensors)
    return measure_lazily(_total([tensor.detach() for tensor in tensors]), exponents=exponents)


def _total(tensors: list[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor  # not in place: the gradients are the user's
    return total


def stats_from_vector(vector: list[float]) -> TensorStats:
    """The statistics that a moved vector of moments stands for."""
    return TensorStats(
        numel=int(vector[_NUMEL]),
        nan_count=int(vector[_NAN]),
        inf_count=int(vector[_INF]),
        zero_count=int(vector[_ZERO]),
        sum=vector[_SUM],
        sum_abs=vector[_SUM_ABS],
        sum_squares=vector[_SUM_SQUARES],
        max_abs=vector[_MAX_ABS],
        scale_exponent=int(vector[_SCALE]),
    )


def _measure(tensor: Tensor, exponents: bool) -> TensorStats | Tensor:
    _refuse_without_values(tensor)
    local = tensor.detach()
    to_local = getattr(local, "to_local", None)
    if to_local is not None:  # DTensor: this rank's shard; ranks are merged later
        local = to_local()
    with torch_internals.without_function_modes(), torch_internals.without_autocast():
        if exponents and local.device.type != "cpu":  # opt-in, and the only statistic that waits for the device
            local = local.cpu()
        if local.layout is not torch.strided:
            return _sparse_stats(local, exponents)
        values, repeats = _flattened(local.resolve_neg())
        if values.device.type != "cpu":
            vector = device_moments(values)
            return vector if repeats == 1 else _repeated(vector, repeats)
        stats = cpu_stats(values)
        if exponents:
            stats = replace(stats, exponents=exponent_histogram(values))
        return stats if repeats == 1 else _repeated_stats(stats, repeats)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is a contiguous float32 CPU tensor of torch's own types, with values.

    Most tensors are: a shortcut for them halves what a recording costs beside reading memory.
    """
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and not torch_internals.is_functorch_wrapper(tensor)
        and (tensor.data_ptr() != 0 or not tensor.numel())
    )


def _refuse_without_values(tensor: Tensor) -> None:
    if torch_internals.is_functorch_wrapper(tensor):
        raise UnmeasurableError("it is inside a torch.func transform (vmap, grad)")
    if tensor.device.type == "meta" or torch_internals.is_fake(tensor):
        raise UnmeasurableError("it has a shape but no values (meta or fake tensor)")
    if tensor.layout is torch.strided and tensor.numel() and not tensor.untyped_storage().nbytes():
        raise UnmeasurableError("its memory has been freed")
    if tensor.is_quantized or tensor.is_mkldnn:
        raise UnmeasurableError("quantized and oneDNN layouts are not supported")


def _flattened(tensor: Tensor) -> tuple[Tensor, int]:
    """The distinct elements in one dimension, in any order, copied only where it must be; how often each repeats."""
    if tensor.is_contiguous():
        return tensor.reshape(-1), 1
    repeats = 1
    for dim in range(tensor.dim()):
        if tensor.stride(dim) == 0 and tensor.size(dim) > 1:
            repeats *= tensor.size(dim)
            tensor = tensor.narrow(dim, 0, 1)
    if tensor.is_contiguous():
        return tensor.reshape(-1), repeats
    expected = 1
    for stride, size in sorted((tensor.stride(d), tensor.size(d)) for d in range(tensor.dim()) if tensor.size(d) > 1):
        if stride != expected:
            return tensor.reshape(-1), repeats
        expected *= size
    return tensor.as_strided((tensor.numel(),), (1,)), repeats


def device_moments(values: Tensor) -> Tensor:
    """The moments of a flat tensor as a float64 vector on its device, without waiting for it.

    Entries: number of elements, NaN, Inf and zero counts, sum, sum of absolute values, sum of squares, largest
    absolute value, binary exponent of the sums' unit.
    """
    if not values.numel():
        return torch.zeros(9, dtype=torch.float64, device=values.device)
    is_nan, finite = torch.isnan(values), torch.isfinite(values)
    signed = torch.where(finite, values, 0)
    if values.is_complex():
        # By hypot in float64: in their own precision the squares overflow past 1e19.
        modulus = torch.hypot(signed.real.double(), signed.imag.double())
        signed = signed.real.double()
    else:
        signed = signed.double()
        modulus = signed.abs()
    max_abs = modulus.amax()
    in_range = (max_abs == 0) | ((max_abs >= 2.0**-400) & (max_abs <= 2.0**400))
    scale = torch.where(in_range, 0, torch.frexp(max_abs).exponent)
    for factor in _power_of_two(-scale):
        modulus, signed = modulus * factor, signed * factor
    nan_count = is_nan.sum()
    entries = [
        torch.full((), values.numel(), device=values.device),
        nan_count,
        (~finite).sum() - nan_count,
        (values == 0).sum(),
        signed.sum(),
        modulus.sum(),
        torch.dot(modulus, modulus),
        max_abs,
        scale,
    ]
    return torch.stack([entry.double() for entry in entries])


def _power_of_two(exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors whose product is 2**exponent: the power itself may be past the largest float64."""
    half = torch.div(exponent, 2, rounding_mode="floor")
    one = torch.ones((), dtype=torch.float64, device=exponent.device)
    return torch.ldexp(one, half), torch.ldexp(one, exponent - half)


def _sparse_stats(tensor: Tensor, exponents: bool) -> TensorStats:
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
    elif tensor.layout not in (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        raise UnmeasurableError(f"the layout {tensor.layout} is not supported")
    stored = measure(tensor.values(), exponents=exponents)
    absent = tensor.numel() - stored.numel
    zeros_have_no_exponent = ExponentHistogram(0, ()) if exponents else None
    return stored.merge(TensorStats(absent, zero_count=absent, exponents=zeros_have_no_exponent))


def _repeated(vector: Tensor, repeats: int) -> Tensor:
    factors = torch.ones_like(vector)
    factors[:_MAX_ABS] = repeats
    return vector * factors


def _repeated_stats(stats: TensorStats, repeats: int) -> TensorStats:
    exponents = stats.exponents
    if exponents is not None:
        exponents = ExponentHistogram(exponents.lowest, tuple(count * repeats for count in exponents.counts))
    return replace(
        stats,
        numel=stats.numel * repeats,
        nan_count=stats.nan_count * repeats,
        inf_count=stats.inf_count * repeats,
        zero_count=stats.zero_count * repeats,
        sum=stats.sum * repeats,
        sum_abs=stats.sum_abs * repeats,
        sum_squares=stats.sum_squares * repeats,
        exponents=exponents,
    )
