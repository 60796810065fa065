"""Moments of flat CPU tensors: in their own precision where that is safe, in scaled float64 otherwise."""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from headwater.recording import ExponentHistogram, TensorStats
from headwater.recording.tensor_stats import scale_exponent_for

# A piece and its absolute values, of 2**17 float32 values each, stay in a core's cache, and torch's other threads are
# worth starting; torch sums in cascades, so that sums over a piece in float32 lose less than 1e-6.
_PIECE = 1 << 17
# Where the largest |x| is in this range, no square and no sum of squares over 2**30 values leaves the dtype.
_SAFE = {torch.float32: (2.0**-40, 2.0**48), torch.float64: (2.0**-400, 2.0**400)}
_SMALLEST, _LARGEST = _SAFE[torch.float32]
_WIDENED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
# Loading numba takes most of a second: worth it only to someone who measures much.
_FUSED_WORTH_LOADING_AFTER = 1 << 24

_MOST_TERMS = 4  # that the fused kernel adds up

_scratch = threading.local()

Moments = tuple[float, float, float, float, int]  # sum, of |x|, of x², largest |x|, zeros


class _Kernel:
    """Which implementation measures float32 tensors in this process, and how much it has measured."""

    fused: Callable[[int, int], Moments] | None = None
    fused_of_sum: Callable[..., Moments] | None = None  # loaded with the other
    num_measured = 0


def load_fused_moments(*, at_once: bool = False) -> bool:
    """Loads the compiled one-visit kernel where numba is installed and enough has been measured to be worth it.

    Args:
        at_once: whether or not enough has been measured.

    Returns:
        Whether float32 tensors are now measured in one visit.
    """
    worth_it = at_once or _Kernel.num_measured >= _FUSED_WORTH_LOADING_AFTER
    if _Kernel.fused is None and worth_it and importlib.util.find_spec("numba") is not None:
        from headwater.capture.fused_moments import fused_moments, fused_moments_of_sum

        zero = torch.zeros(1).data_ptr()
        fused_moments(zero, 1)  # compiles now, or loads what was compiled before
        fused_moments_of_sum(2, zero, zero, zero, zero, 1)
        _Kernel.fused, _Kernel.fused_of_sum = fused_moments, fused_moments_of_sum
    return _Kernel.fused is not None


@contextmanager
def fused_moments_unloaded() -> Iterator[None]:
    """Inside, float32 tensors are measured as where numba is not installed (to compare the two)."""
    loaded = _Kernel.fused, _Kernel.fused_of_sum, _Kernel.num_measured
    _Kernel.fused, _Kernel.fused_of_sum = None, None
    _Kernel.num_measured = -(1 << 62)  # so that no recorder loads it again
    try:
        yield
    finally:
        _Kernel.fused, _Kernel.fused_of_sum, _Kernel.num_measured = loaded


def fused_stats(values: Tensor) -> TensorStats | None:
    """The statistics of a contiguous float32 CPU tensor, without an operation that torch would see.

    None where the compiled kernel is not loaded, or float32 sums would not be right.
    """
    if _Kernel.fused is None:
        return None
    numel = values.numel()
    total, total_abs, total_squares, max_abs, zero_count = _Kernel.fused(values.data_ptr(), numel)
    if not (_SMALLEST <= max_abs <= _LARGEST or max_abs == 0.0):
        return None
    return TensorStats(numel, 0, 0, zero_count, total, total_abs, total_squares, max_abs)


def cpu_stats(values: Tensor) -> TensorStats:
    """The statistics of a CPU tensor of any dtype, contiguous or of one dimension."""
    if not values.numel():
        return TensorStats(0)
    if values.dtype is torch.float32 and values.is_contiguous():
        stats = fused_stats(values)
        if stats is not None:
            return stats
    _Kernel.num_measured += values.numel()
    pieces = values.detach().reshape(-1).split(_PIECE)
    if values.dtype in _WIDENED:
        return _merged(cpu_stats(piece.to(_WIDENED[values.dtype])) for piece in pieces)
    return _merged(map(_piece_stats if values.dtype in _SAFE else _careful_stats, pieces))


def float32_stats_of_sum(tensors: list[Tensor]) -> TensorStats:
    """The statistics of the elementwise sum of two or more contiguous float32 CPU tensors, never held as a whole."""
    first = tensors[0]
    if _Kernel.fused_of_sum is not None and len(tensors) <= _MOST_TERMS and first.numel():
        addresses = [tensor.data_ptr() for tensor in tensors]
        addresses += addresses[:1] * (_MOST_TERMS - len(addresses))
        moments = _Kernel.fused_of_sum(len(tensors), *addresses, first.numel())
        if _is_safe(torch.float32, moments[3]):
            return _stats(first.numel(), moments)
    pieces = (tensor.detach().reshape(-1).split(_PIECE) for tensor in tensors)
    return _merged(cpu_stats(functools.reduce(torch.add, terms)) for terms in zip(*pieces, strict=True))


def _is_safe(dtype: torch.dtype, max_abs: float) -> bool:
    smallest, largest = _SAFE[dtype]
    return smallest <= max_abs <= largest or max_abs == 0.0


def _stats(numel: int, moments: Moments) -> TensorStats:
    total, total_abs, total_squares, max_abs, zero_count = moments
    return TensorStats(numel, 0, 0, zero_count, total, total_abs, total_squares, max_abs)


def _piece_stats(values: Tensor) -> TensorStats:
    """Of at most `_PIECE` float32 or float64 values, in their own precision where that is safe.

    numpy finds extremes fastest, torch sums fastest and in cascades, which lose less than a dot product.
    """
    array = values.numpy()
    absolute = np.abs(array, out=_buffer(array.dtype)[: array.size])
    max_abs = float(absolute.max())
    if not _is_safe(values.dtype, max_abs):
        return _careful_stats(values)
    zero_count = int(np.count_nonzero(absolute == 0.0)) if absolute.min() == 0.0 else 0
    modulus = torch.from_numpy(absolute)
    sum_abs = modulus.sum().item()
    sum_squares = modulus.mul_(modulus).sum().item()
    return _stats(array.size, (values.sum().item(), sum_abs, sum_squares, max_abs, zero_count))


def _buffer(dtype: np.dtype) -> np.ndarray:
    """A piece-sized scratch array of this thread."""
    buffers = vars(_scratch)
    if dtype.name not in buffers:
        buffers[dtype.name] = np.empty(_PIECE, dtype=dtype)
    return buffers[dtype.name]


def _careful_stats(values: Tensor) -> TensorStats:
    """Statistics of anything in float64, scaled so that squares of the largest values stay finite."""
    signed, modulus = _signed_and_modulus(values)
    finite = np.isfinite(modulus)
    nan_count = int(np.isnan(modulus).sum())
    inf_count = modulus.size - nan_count - int(finite.sum())
    if nan_count or inf_count:
        modulus, signed = modulus[finite], signed[finite]
    max_abs = float(modulus.max()) if modulus.size else 0.0
    zero_count = modulus.size - int(np.count_nonzero(modulus))  # before scaling, which rounds small values to zero
    scale = scale_exponent_for(max_abs)
    modulus, signed = np.ldexp(modulus, -scale), np.ldexp(signed, -scale)
    return TensorStats(
        numel=nan_count + inf_count + modulus.size,
        nan_count=nan_count,
        inf_count=inf_count,
        zero_count=zero_count,
        sum=float(signed.sum()),
        sum_abs=float(modulus.sum()),
        sum_squares=float(np.dot(modulus, modulus)),
        max_abs=max_abs,
        scale_exponent=scale,
    )


def _signed_and_modulus(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if not values.is_complex():
        signed = values.resolve_neg().double().numpy()
        return signed, np.abs(signed)
    pairs = torch.view_as_real(values.resolve_conj()).double().numpy()
    with np.errstate(over="ignore"):  # a modulus past the largest float64 counts as infinite
        modulus = np.hypot(pairs[..., 0], pairs[..., 1])
    modulus[np.isnan(pairs).any(-1)] = np.nan  # by IEEE inf + nan*i is infinite; to whoever debugs it, it is a NaN
    return pairs[..., 0], modulus


def exponent_histogram(values: Tensor) -> ExponentHistogram:
    """Counts per binary exponent of the finite non-zero elements of a flat CPU tensor; complex ones by modulus."""
    counts: dict[int, int] = {}
    for piece in values.split(_PIECE):
        modulus = _signed_and_modulus(piece)[1]
        exponents = np.frexp(modulus[np.isfinite(modulus) & (modulus != 0.0)])[1] - 1
        for exponent, count in zip(*np.unique(exponents, return_counts=True), strict=True):
            counts[int(exponent)] = counts.get(int(exponent), 0) + int(count)
    if not counts:
        return ExponentHistogram(0, ())
    lowest = min(counts)
    return ExponentHistogram(lowest, tuple(counts.get(e, 0) for e in range(lowest, max(counts) + 1)))


def _merged(parts: Iterable[TensorStats]) -> TensorStats:
    merged = TensorStats(0)
    for part in parts:
        merged = merged.merge(part)
    return merged
