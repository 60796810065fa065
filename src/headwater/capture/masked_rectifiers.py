"""Knows a rectifier that is written by hand: what is positive is told by a comparison, and kept by a product or a choice.

`torch.where(h > 0, h, 0.0)`, `h * (h > 0)` and `h.masked_fill(h < 0, 0.0)` compute a ReLU. That the mask is that of the very tensor
it is applied to is known from the comparison that made it, not guessed from values.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ABOVE, _BELOW = ("gt", "ge", "greater", "greater_equal"), ("lt", "le", "less", "less_equal")
_CONVERSIONS = ("float", "double", "half", "bfloat16", "to", "type", "type_as")
_NEGATIONS = ("invert", "bitwise_not", "logical_not")
_NAMED = ("condition", "input", "mask", "other", "value")  # in the order that each of these functions takes them
PRODUCTS = ("mul", "rmul", "multiply")
MASKED_RECTIFIERS = ("where", "masked_fill", *PRODUCTS)


class _Mask(NamedTuple):
    tensor: weakref.ref[Tensor]
    compared: weakref.ref[Tensor]
    version: int  # of what was compared: it may change in place
    is_above: bool  # true where what was compared is positive, not where it is negative


class PositiveMasks:
    """The masks that comparisons with zero made in a forward pass."""

    def __init__(self) -> None:
        self._masks: dict[int, _Mask] = {}

    def note(self, function: Callable[..., Any], args: Sequence[Any], result: Any) -> None:
        """Remembers the result where it is such a mask, or one made a number, or turned round.

        >>> masks, h = PositiveMasks(), torch.ones(2)
        >>> mask = h > 0
        >>> masks.note(torch.gt, (h, 0), mask)
        >>> masks.rectified("mul", (h, mask), {}) is h
        True
        """
        name = _comparison(function)
        if not name or not args or not isinstance(args[0], Tensor) or not isinstance(result, Tensor):
            return
        source, own = args[0], weakref.ref(result)
        known = self._of(source)
        if name in (*_ABOVE, *_BELOW):
            if len(args) > 1 and is_zero(args[1]) and result.shape == source.shape and not source.is_inference():
                self._masks[id(result)] = _Mask(own, weakref.ref(source), source._version, name in _ABOVE)
        elif known is not None:
            is_above = known.is_above if name in _CONVERSIONS else not known.is_above
            self._masks[id(result)] = known._replace(tensor=own, is_above=is_above)

    def rectified(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """The tensor of which an operation keeps what is positive, and makes the rest zero; None where it does not do that.

        Args:
            name: of the function, one of `MASKED_RECTIFIERS`.
            args: its arguments.
            kwargs: the named ones.
        """
        if not self._masks or not kwargs.keys() <= set(_NAMED):
            return None
        args = (*args, *(kwargs[name] for name in _NAMED if name in kwargs))
        if len(args) < 2:
            return None
        if name in PRODUCTS:
            first = self._kept(args[1], args[0])
            return self._kept(args[0], args[1]) if first is None else first
        if len(args) < 3:
            return None
        if name == "masked_fill":
            return self._kept(args[1], args[0], is_above=False) if is_zero(args[2]) else None
        mask, chosen, other = args if self._of(args[0]) is not None else (args[1], args[0], args[2])
        if is_zero(other):
            return self._kept(mask, chosen)
        return self._kept(mask, other, is_above=False) if is_zero(chosen) else None

    def _of(self, tensor: Any) -> _Mask | None:
        found = self._masks.get(id(tensor))
        return found if found is not None and found.tensor() is tensor else None

    def _kept(self, mask: Any, tensor: Any, *, is_above: bool = True) -> Tensor | None:
        found = self._of(mask)
        is_own = found is not None and found.compared() is tensor and found.version == tensor._version
        return tensor if is_own and found is not None and found.is_above is is_above else None


def is_zero(value: Any) -> bool:
    """Whether it is the number zero, or a tensor of nothing else that wants no gradient.

    >>> is_zero(0), is_zero(torch.zeros(3)), is_zero(torch.ones(())), is_zero(None), is_zero(False)
    (True, True, False, False, False)
    """
    if isinstance(value, Tensor):
        is_read = value.device.type != "meta" and value.layout is torch.strided and not value.requires_grad
        return is_read and value.numel() > 0 and not bool(value.any())
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


@functools.cache
def _comparison(function: Callable[..., Any]) -> str:
    """Its plain name where it is one of those that make masks, else ""."""
    name = str(getattr(function, "__name__", "")).strip("_")
    return name if name in (*_ABOVE, *_BELOW, *_CONVERSIONS, *_NEGATIONS) else ""
