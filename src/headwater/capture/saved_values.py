"""Copies of tensors, to be compared bit for bit and put back.

All that lies in plain CPU memory is copied into one buffer. Memory that a process has not used before costs more than
copying into it, a page at a time; numpy asks for large pages for a large buffer, which takes a tenth of the time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headwater.capture import torch_internals

_library = ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)
_memcmp = _library.memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int
_ALIGNMENT = 64  # bytes: a cache line
_PLAIN_TYPES = (Tensor, nn.Parameter)


class _Place(NamedTuple):
    """Where in the buffer the copy of a tensor is, in bytes, and what the tensor was."""

    tensor: Tensor
    version: int
    start: int
    num_bytes: int
    shape: torch.Size
    dtype: torch.dtype


class SavedValues:
    """The values of tensors as they are now. A lazy tensor has none, and one made in inference mode must not be written to.

    Args:
        tensors: each once.

    >>> weight = torch.tensor([0.0, 1.0])
    >>> saved = SavedValues([weight])
    >>> weight.data.neg_()
    tensor([-0., -1.])
    >>> saved.put_back()
    >>> weight
    tensor([0., 1.])
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._places: list[_Place] = []
        self._others: list[tuple[Tensor, int, Tensor]] = []  # with its version and its copy
        end = 0
        for tensor in tensors:
            if is_lazy(tensor) or tensor.is_inference():
                continue
            if _is_in_plain_memory(tensor):
                start = -(-end // _ALIGNMENT) * _ALIGNMENT
                end = start + tensor.numel() * tensor.element_size()
                self._places.append(_Place(tensor, tensor._version, start, end - start, tensor.shape, tensor.dtype))
            else:
                self._others.append((tensor, tensor._version, tensor.detach().clone()))
        self._buffer = np.empty(end, np.uint8)
        self._address = self._buffer.ctypes.data
        for place in self._places:
            ctypes.memmove(self._address + place.start, place.tensor.data_ptr(), place.num_bytes)

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives a tensor that has other values now its own again; only to such, for it moves the version on.

        In plain CPU memory bits are compared: 0.0 is not -0.0, and NaN is what it was. Elsewhere values are. What was resized, or
        given other data, gets its own shape again.
        """
        for place in self._places:
            # Batch normalisation changes its statistics without moving their version on.
            if place.tensor._version != place.version or not self._has_same_bits(place):
                _give(place.tensor, self._copy_at(place))
        for tensor, version, values in self._others:
            if tensor._version != version or not _are_equal(tensor, values):
                _give(tensor, values)

    def _has_same_bits(self, place: _Place) -> bool:
        tensor = place.tensor
        return (
            tensor.dtype is place.dtype
            and tensor.shape == place.shape
            and _is_in_plain_memory(tensor)
            and _memcmp(tensor.data_ptr(), self._address + place.start, place.num_bytes) == 0
        )

    def _copy_at(self, place: _Place) -> Tensor:
        flat = torch.frombuffer(self._buffer, dtype=place.dtype, count=place.shape.numel(), offset=place.start)
        return flat.reshape(place.shape)


def _is_in_plain_memory(tensor: Tensor) -> bool:
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.is_cpu
        and not tensor.is_nested
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not (tensor.is_neg() or tensor.is_conj() or tensor.is_quantized)
        and not torch_internals.is_functorch_wrapper(tensor)
        and tensor.data_ptr() != 0
    )


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return (None if tensor.is_nested else tensor.shape, tensor.dtype, tensor.device)


def _give(tensor: Tensor, values: Tensor) -> None:
    if _form(tensor) == _form(values):
        tensor.copy_(values)
    else:
        tensor.data = values.clone()


def _are_equal(tensor: Tensor, values: Tensor) -> bool:
    if _form(tensor) != _form(values):
        return False
    try:
        return torch.equal(tensor, values)
    except Exception:  # noqa: BLE001 - torch compares no sparse, nested or meta tensors: their version tells
        return True
