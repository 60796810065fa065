"""One-visit moments of float32 CPU tensors, compiled by numba (the `fast` extra): about the speed of one plain read.

Two loops over blocks that stay in the first-level cache: sums in floating point, then the largest absolute value and
the zeros on the bit patterns, where comparing absolute values is comparing integers. (A float maximum in the first
loop would keep the compiler from vectorising it.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # pyright: ignore[reportPrivateImportUsage]
from numba.extending import intrinsic

_BLOCK = 4096  # 16 kB; sums over one block in float32 lose less than 1e-6
_ZERO_F = np.float32(0)
_ZERO_U = np.uint32(0)
_MAGNITUDE_BITS = np.uint32(0x7FFFFFFF)


@njit(fastmath=True, nogil=True, cache=True)
def _sums(values: Any) -> Any:
    total = _ZERO_F
    total_abs = _ZERO_F
    total_squares = _ZERO_F
    for i in range(values.size):
        value = values[i]
        total += value
        total_abs += abs(value)
        total_squares += value * value
    return total, total_abs, total_squares


@njit(nogil=True, cache=True)
def _largest_and_zeros(patterns: Any) -> Any:
    largest = _ZERO_U
    zeros = _ZERO_U
    for i in range(patterns.size):
        pattern = np.uint32(patterns[i] & _MAGNITUDE_BITS)
        largest = max(largest, pattern)
        zeros = np.uint32(zeros + np.uint32(pattern == _ZERO_U))
    return largest, zeros


@njit(nogil=True, cache=True)
def _block_moments(values: Any, so_far: Any) -> Any:
    total, total_abs, total_squares, largest, zeros = so_far
    block_sum, block_abs, block_squares = _sums(values)
    block_largest, block_zeros = _largest_and_zeros(values.view(np.uint32))
    return (
        total + block_sum,
        total_abs + block_abs,
        total_squares + block_squares,
        max(largest, block_largest),
        zeros + block_zeros,
    )


@njit(nogil=True, cache=True)
def _sum_of_two(total: Any, first: Any, second: Any) -> None:
    for i in range(total.size):
        total[i] = first[i] + second[i]


@njit(nogil=True, cache=True)
def _sum_of_three(total: Any, first: Any, second: Any, third: Any) -> None:
    for i in range(total.size):
        total[i] = first[i] + second[i] + third[i]


@njit(nogil=True, cache=True)
def _sum_of_four(total: Any, first: Any, second: Any, third: Any, fourth: Any) -> None:
    for i in range(total.size):
        total[i] = first[i] + second[i] + third[i] + fourth[i]


@njit(nogil=True, cache=True)
def _with_float_maximum(moments: Any) -> Any:
    total, total_abs, total_squares, largest, zeros = moments
    return total, total_abs, total_squares, float(np.uint32(largest).view(np.float32)), zeros


def _cast_to_pointer(typing_context: Any, address: Any) -> Any:
    """The address as a pointer to float32: making numpy arrays of a thousand tensors takes longer than reading them."""
    del typing_context

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(address), generate


_pointer: Any = intrinsic(_cast_to_pointer)


@njit(nogil=True, cache=True)
def fused_moments(address: int, size: int) -> Any:
    """Sum, sum of |x|, sum of x², largest |x| and number of zeros of the `size` float32 values at an address.

    The largest |x| is NaN or infinite where an element is, and the sums then mean nothing; sums of squares are only
    right where the largest value shows that none has left float32's range.

    >>> values = np.array([3.0, -4.0, 0.0], dtype=np.float32)
    >>> fused_moments(values.ctypes.data, 3)
    (-1.0, 7.0, 25.0, 4.0, 1)
    """
    values = carray(_pointer(address), (size,))
    moments = (0.0, 0.0, 0.0, _ZERO_U, 0)
    for start in range(0, size, _BLOCK):
        moments = _block_moments(values[start : start + _BLOCK], moments)
    return _with_float_maximum(moments)


@njit(nogil=True, cache=True)
def fused_moments_of_sum(count: int, first: int, second: int, third: int, fourth: int, size: int) -> Any:
    """The same of the elementwise sum, never held as a whole, of what is at the first `count` (2, 3 or 4) addresses.

    >>> ones = np.ones(3, dtype=np.float32).ctypes.data
    >>> fused_moments_of_sum(2, ones, ones, ones, ones, 3)
    (6.0, 6.0, 12.0, 2.0, 0)
    """
    a, b = carray(_pointer(first), (size,)), carray(_pointer(second), (size,))
    c, d = carray(_pointer(third), (size,)), carray(_pointer(fourth), (size,))
    moments = (0.0, 0.0, 0.0, _ZERO_U, 0)
    block = np.empty(_BLOCK, dtype=np.float32)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        total = block[: stop - start]
        if count == 2:
            _sum_of_two(total, a[start:stop], b[start:stop])
        elif count == 3:
            _sum_of_three(total, a[start:stop], b[start:stop], c[start:stop])
        else:
            _sum_of_four(total, a[start:stop], b[start:stop], c[start:stop], d[start:stop])
        moments = _block_moments(total, moments)
    return _with_float_maximum(moments)
