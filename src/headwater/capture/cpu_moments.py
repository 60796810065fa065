"""Moments of flat CPU tensors: in their own precision where that is safe, in scaled float64 otherwise."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from headwater.recording import ExponentHistogram, TensorStats
from headwater.recording.tensor_stats import scale_exponent_for

# Pieces of 2**15 values stay, with their absolute values, in a core's cache, and below the size from which torch
# starts its other threads; sums over a piece in float32 lose less than 1e-6.
_PIECE = 1 << 15
# Where the largest |x| is in this range, no square and no sum of squares over 2**30 values leaves the dtype.
_SAFE = {torch.float32: (2.0**-40, 2.0**48), torch.float64: (2.0**-400, 2.0**400)}
_WIDENED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
# Loading numba takes most of a second: worth it only to someone who measures much.
_FUSED_WORTH_LOADING_AFTER = 1 << 24

_scratch = threading.local()


class _Kernel:
    """Which implementation measures float32 tensors in this process, and how much it has measured."""

    fused: Callable[[np.ndarray], tuple[float, float, float, float, int]] | None = None
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
        from headwater.capture.fused_moments import fused_moments

        fused_moments(np.zeros(1, dtype=np.float32))  # compiles now, or loads what was compiled before
        _Kernel.fused = fused_moments
    return _Kernel.fused is not None


@contextmanager
def fused_moments_unloaded() -> Iterator[None]:
    """Inside, float32 tensors are measured as where numba is not installed (to compare the two)."""
    fused, _Kernel.fused = _Kernel.fused, None
    num_measured, _Kernel.num_measured = _Kernel.num_measured, -(1 << 62)  # so that no recorder loads it again
    try:
        yield
    finally:
        _Kernel.fused, _Kernel.num_measured = fused, num_measured


def cpu_stats(values: Tensor) -> TensorStats:
    """The statistics of a flat contiguous CPU tensor of any dtype, without a gradient."""
    if values.dtype in _WIDENED:
        return _merged(map(cpu_stats, (piece.to(_WIDENED[values.dtype]) for piece in values.split(_PIECE))))
    if not values.numel():
        return TensorStats(0)
    _Kernel.num_measured += values.numel()
    if values.dtype is torch.float32 and _Kernel.fused is not None:
        return _fused_stats(values, _Kernel.fused)
    if values.numel() <= _PIECE:
        return _piece_stats(values)
    return _merged(map(_piece_stats, values.split(_PIECE)))


def cpu_stats_of_sum(arrays: list[np.ndarray]) -> TensorStats:
    """The statistics of the elementwise sum of flat float32 arrays, which is made piece by piece."""
    size = arrays[0].size
    merged = TensorStats(0)
    total = _buffer(arrays[0].dtype, "sum")
    for start in range(0, size, _PIECE):
        stop = min(start + _PIECE, size)
        piece = total[: stop - start]
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is counted, not warned of
            np.add(arrays[0][start:stop], arrays[1][start:stop], out=piece)
            for array in arrays[2:]:
                np.add(piece, array[start:stop], out=piece)
        merged = merged.merge(cpu_stats(torch.from_numpy(piece)))
    return merged


def _fused_stats(values: Tensor, kernel: Callable[[np.ndarray], tuple[float, float, float, float, int]]) -> TensorStats:
    array = values.numpy()
    total, total_abs, total_squares, max_abs, zero_count = kernel(array)
    smallest, largest = _SAFE[torch.float32]
    if not (smallest <= max_abs <= largest or max_abs == 0.0):
        return _merged(map(_careful_stats, values.split(_PIECE)))
    return TensorStats(
        numel=array.size,
        zero_count=zero_count,
        sum=total,
        sum_abs=total_abs,
        sum_squares=total_squares,
        max_abs=max_abs,
    )


def _piece_stats(values: Tensor) -> TensorStats:
    safe = _SAFE.get(values.dtype)
    if safe is None:
        return _careful_stats(values)
    array = values.numpy()
    absolute = np.abs(array, out=_buffer(array.dtype)[: array.size])
    max_abs = float(absolute.max())
    if not (safe[0] <= max_abs <= safe[1] or max_abs == 0.0):
        return _careful_stats(values)
    zero_count = int(np.count_nonzero(absolute == 0.0)) if absolute.min() == 0.0 else 0
    sum_abs = float(absolute.sum())
    squares = np.multiply(absolute, absolute, out=absolute)  # summed in pairs, which loses less than a dot product
    return TensorStats(
        numel=array.size,
        zero_count=zero_count,
        sum=float(array.sum()),
        sum_abs=sum_abs,
        sum_squares=float(squares.sum()),
        max_abs=max_abs,
    )


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


def _merged(parts: map[TensorStats]) -> TensorStats:
    merged = TensorStats(0)
    for part in parts:
        merged = merged.merge(part)
    return merged


def _buffer(dtype: np.dtype, purpose: str = "absolute") -> np.ndarray:
    """A piece-sized scratch array of this thread."""
    buffers = vars(_scratch)
    name = f"{purpose} {dtype.name}"
    if name not in buffers:
        buffers[name] = np.empty(_PIECE, dtype=dtype)
    return buffers[name]
