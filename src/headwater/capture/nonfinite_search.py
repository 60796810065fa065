"""Which operation makes the first value that is not finite: a second forward pass that looks at every result."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from headwater.capture import torch_internals
from headwater.capture.observations import ObservedCall
from headwater.capture.source_lines import calling_line
from headwater.capture.structure import named_tensors


class Culprit(NamedTuple):
    """The operation that returned the first value of its kind (NaN, or infinite).

    Args:
        call: the innermost call of a module that it ran in.
        function: what was called.
        file, line: where the user's code called it; "" and 0 where that is not known.
    """

    call: ObservedCall | None
    function: Callable[..., Any]
    file: str
    line: int


class NonFiniteSearch(TorchFunctionMode):
    """Inside, notes the first torch function that returns a NaN, and the first that returns an infinity.

    Outside of the model also the first that makes an infinity of finite arguments: a mask of -inf may have come before it.

    Args:
        running: the calls of modules that the thread is inside of, innermost last.
    """

    def __init__(self, running: Callable[[], Sequence[ObservedCall]]) -> None:
        super().__init__()
        self.first_nan: Culprit | None = None
        self.first_infinity: Culprit | None = None
        self.first_made_in_loss: Culprit | None = None
        self._running = running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function and looks at what it returns, until a NaN is found."""
        result = func(*args, **(kwargs or {}))
        if self.first_nan is None:
            self._look_at(func, (args, kwargs or {}), result)
        return result

    @torch_internals.unseen
    def _look_at(self, func: Any, read: Any, result: Any) -> None:
        values = [tensor.detach() for _, tensor in named_tensors(result) if _can_be_read(tensor)]
        if all(tensor.isfinite().all() for tensor in values):
            return
        running = self._running()
        frame = sys._getframe(3)  # behind this one are `unseen` and `__torch_function__`, which are Headwater's own
        culprit = Culprit(running[-1] if running else None, func, *calling_line(frame))
        if any(tensor.isnan().any() for tensor in values):
            self.first_nan = culprit
            return
        self.first_infinity = self.first_infinity or culprit
        if self.first_made_in_loss is None and culprit.call is None and _are_finite(read):
            self.first_made_in_loss = culprit


def _are_finite(read: Any) -> bool:
    if isinstance(read, dict):
        return _are_finite(list(read.values()))
    if isinstance(read, list | tuple):
        return all(map(_are_finite, read))
    if isinstance(read, Tensor):
        return not _can_be_read(read) or bool(read.detach().isfinite().all())
    return not isinstance(read, float) or math.isfinite(read)


def _can_be_read(tensor: Tensor) -> bool:
    is_float = tensor.is_floating_point() or tensor.is_complex()
    return is_float and tensor.device.type != "meta" and not torch_internals.is_functorch_wrapper(tensor)
