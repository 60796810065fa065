"""Tensors that are made of parameters alone: a weight that is normalised, scaled or put together before it is multiplied by."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn


class ComputedWeights:
    """Those of a forward pass.

    >>> import torch
    >>> weights, weight = ComputedWeights(), nn.Parameter(torch.ones(2, 2))
    >>> scaled, mixed = 2.0 * weight, weight + torch.ones(2, 2)
    >>> weights.note([weight], scaled), weights.note([weight, torch.ones(2, 2)], mixed)
    (None, None)
    >>> weights.include(weight), weights.include(weight.T), weights.include(scaled), weights.include(mixed)
    (True, True, True, False)
    """

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Tensor]] = {}

    def note(self, read: Sequence[Any], result: Any) -> None:
        """Notes what a function returned, if it read such tensors and no other ones.

        Args:
            read: its arguments.
            result: what it returned.
        """
        if isinstance(result, Tensor) and result.requires_grad:
            tensors = list(_tensors(read))
            if tensors and all(map(self.include, tensors)):
                self._known[id(result)] = weakref.ref(result)

    def include(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter, a view of one, or is made of them."""
        if isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter):
            return True
        known = self._known.get(id(tensor))
        return known is not None and known() is tensor


def _tensors(arguments: Iterable[Any]) -> Iterable[Tensor]:
    """Those among arguments, and in lists of them; of an index, too."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)
