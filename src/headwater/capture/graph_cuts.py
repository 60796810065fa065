"""Where the graph is cut: functions that read what wants a gradient, and return what wants none."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from headwater.capture.observations import ObservedCall

_MOST_CUTS = 1000  # under no_grad every operation is one
_MOST_SOURCES = 8  # of one cut in a loop


class TracedCut(NamedTuple):
    """A torch function that read a tensor which wants a gradient, and returned one that does not.

    A comparison is one where numbers were made of its mask.

    Args:
        call: the innermost call of a module that it ran in.
        function: what was called.
        file, line: where the user's code called it.
    """

    call: ObservedCall | None
    function: Callable[..., Any]
    file: str
    line: int


CutSource = Node | Tensor  # that made what a cut read; a leaf itself


class _Mask(NamedTuple):
    """What comparisons of tensors that want a gradient made."""

    tensor: weakref.ref[Tensor]
    comparisons: Mapping[TracedCut, Sequence[CutSource]]


class GraphCuts:
    """The cuts of a forward pass."""

    def __init__(self) -> None:
        self.found: dict[TracedCut, list[CutSource]] = {}  # with what was read there
        self._masks: dict[int, _Mask] = {}  # by the identity of their tensors

    def note(
        self, function: Callable[..., Any], read: Sequence[Any], result: Any, here: Callable[[], TracedCut]
    ) -> None:
        """Notes a call that made no autograd node, if it is a cut.

        Args:
            function: that was called.
            read: all its arguments.
            result: what it returned.
            here: makes the cut that it would be.
        """
        if len(self.found) >= _MOST_CUTS or not (isinstance(result, Tensor) or _leaves_torch(function)):
            return
        cuts = {cut: made for argument in read for cut, made in self._compared(argument).items()} if self._masks else {}
        if not cuts and _wants_no_gradient(function, result, read):
            cuts = {here(): [a.grad_fn or a for a in read if isinstance(a, Tensor) and a.requires_grad]}
        if isinstance(result, Tensor) and result.dtype is torch.bool:
            # A mask is no cut, nobody expects it to have a gradient, as long as no numbers are made of it.
            if cuts:
                self._masks[id(result)] = _Mask(weakref.ref(result), cuts)
        elif not isinstance(result, Tensor) or not result.requires_grad:
            for cut, made in cuts.items():
                sources = self.found.setdefault(cut, [])
                sources += made[: _MOST_SOURCES - len(sources)]

    def _compared(self, argument: Any) -> Mapping[TracedCut, Sequence[CutSource]]:
        mask = self._masks.get(id(argument))
        return mask.comparisons if mask is not None and mask.tensor() is argument else {}


def _leaves_torch(function: Callable[..., Any]) -> bool:
    return getattr(function, "__name__", "") in ("tolist", "numpy", "item", "__array__")


def _wants_no_gradient(function: Callable[..., Any], result: Any, read: Sequence[Any]) -> bool:
    """Whether a tensor that wants a gradient went in, and what came out wants none, though more than its shape was read."""
    name = getattr(function, "__name__", "")
    return (
        (not isinstance(result, Tensor) or not result.requires_grad)
        and not name.endswith("_like")
        and not name.startswith("new_")
        and any(isinstance(argument, Tensor) and argument.requires_grad for argument in read)
    )
