"""Notes which line of the user's code called each torch function, while a forward pass runs.

A line is looked for from the operation outwards: the innermost frame that is neither torch's nor a library's. Where a
whole model comes from a library, the innermost line of that library stands for it.
"""

from __future__ import annotations

import functools
import linecache
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from headwater.capture import torch_internals
from headwater.capture.computed_weights import ComputedWeights
from headwater.capture.functional_activations import (
    MeasuredActivation,
    is_activation,
    looked_at,
)
from headwater.capture.functional_products import MeasuredProduct, is_product, product_looked_at
from headwater.capture.graph_cuts import GraphCuts, TracedCut
from headwater.capture.masked_rectifiers import PositiveMasks
from headwater.capture.observations import ObservedCall
from headwater.capture.softmax_calls import softmax_call
from headwater.recording import SourceLine

_OWN = str(Path(__file__).parents[1])
_COMMAND_LINE = str(Path(_OWN) / "cli")
_OWN_NETWORKS = str(Path(_OWN) / "networks")
_TORCH = str(Path(torch.__file__).parent)
_LONGEST_CODE = 200


_Measured = MeasuredActivation | MeasuredProduct
_Finish = Callable[[Any], _Measured | None]  # takes what a function returned


class TracedOperation(NamedTuple):
    """One call of a torch function that made autograd nodes.

    Args:
        first, end: the nodes' sequence numbers are in `range(first, end)`.
        function: what was called.
        file, line: where the user's code called it; "" and 0 where no such line is on the stack.
        has_own_slope: it read a single tensor, and made one of the same shape: no mask, index or other factor was in it.
    """

    first: int
    end: int
    function: Callable[..., Any]
    file: str
    line: int
    has_own_slope: bool = False


class SourceLines(TorchFunctionMode):
    """Inside, every torch function that makes autograd nodes, or cuts the graph, is noted with the line that called it.

    Args:
        running: the calls of modules that the thread is inside of, innermost last.
        producer_of: the module that returned a tensor, where one did.
    """

    def __init__(
        self,
        running: Callable[[], Sequence[ObservedCall]] = tuple,
        producer_of: Callable[[Tensor], nn.Module | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.operations: list[TracedOperation] = []
        # Activations, and products with parameters, by the position of their operation.
        self.measured: dict[int, _Measured] = {}
        self.cuts = GraphCuts()
        self._num_softmaxes = 0
        self._positive = PositiveMasks()
        self._weights = ComputedWeights()
        self._running = running
        self._producer_of = producer_of

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, and notes it if autograd's sequence number has moved, or if it should have."""
        finish, number = self._look_at(func, args, kwargs or {}), self._softmax_number(func, args, kwargs or {})
        first = torch_internals.next_sequence_number()
        result = func(*args, **(kwargs or {}))
        end = torch_internals.next_sequence_number()
        if end != first:
            file, line = calling_line(sys._getframe(1))
            self.operations.append(TracedOperation(first, end, func, file, line, _has_own_slope(args, kwargs, result)))
            if finish is not None:
                self._note_measured(finish, result, number)
            self._note_weight(args, kwargs or {}, result)
        else:
            self._note_mask(func, args, result)
            self._note_cut(func, args, kwargs or {}, result, sys._getframe(1))
        return result

    def _note_cut(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any, frame: FrameType) -> None:
        def here() -> TracedCut:
            running = self._running()
            return TracedCut(running[-1] if running else None, func, *calling_line(frame))

        with torch_internals.without_function_modes():
            self.cuts.note(func, (*args, *kwargs.values()), result, here)

    def _look_at(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> _Finish | None:
        is_factor = is_product(func)
        if not is_factor and not is_activation(func):
            return None
        running = self._running()
        with suppress(
            Exception
        ):  # of a tensor of the user's own kind: the pass goes on, and nothing is known of this call
            if running and is_factor:
                return product_looked_at(args, kwargs, running[-1].module, self._weights)
            if running:
                return looked_at(func, args, kwargs, running[-1].module, self._producer_of, self._positive)
        return None

    def _note_mask(self, func: Any, args: Any, result: Any) -> None:
        with suppress(Exception), torch_internals.without_function_modes():  # a tensor that cannot be read
            self._positive.note(func, args, result)

    def _note_weight(self, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        with suppress(Exception), torch_internals.without_function_modes():  # a tensor of the user's own kind
            self._weights.note((*args, *kwargs.values()), result)

    @property
    def products(self) -> set[int]:
        """Positions of the operations that multiply data by a weight."""
        return {position for position, one in self.measured.items() if isinstance(one, MeasuredProduct)}

    def _softmax_number(self, func: Any, args: Any, kwargs: dict[str, Any]) -> int:
        if softmax_call(func, args, kwargs) is None:
            return -1
        self._num_softmaxes += 1
        return self._num_softmaxes - 1

    def _note_measured(self, finish: _Finish, result: Any, softmax_number: int) -> None:
        with suppress(Exception):
            measured = finish(result)
            if isinstance(measured, MeasuredActivation):
                measured = replace(measured, softmax_number=softmax_number)
            if measured is not None:
                self.measured[len(self.operations) - 1] = measured


def _has_own_slope(args: Sequence[Any], kwargs: dict[str, Any] | None, result: Any) -> bool:
    read: Tensor | None = None
    for argument in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(argument, Tensor):
            if read is not None:
                return False
            read = argument
        elif isinstance(argument, list | tuple) and any(isinstance(one, Tensor) for one in argument):
            return False
    if read is None or not isinstance(result, Tensor):
        return False
    with suppress(Exception), torch_internals.without_function_modes():
        return read.shape == result.shape
    return False  # of a tensor of the user's own kind, or of a nested one, which has no shape


def calling_line(frame: FrameType | None) -> tuple[str, int]:
    """File and line of the innermost frame of the user's code, or else of a library's; ("", 0) where neither is.

    Frames outside of Headwater's own are the script that asked, and count only where the model's own code does not; the
    command line is nobody's script.

    >>> file, line = calling_line(sys._getframe())
    >>> line > 0
    True
    """
    in_library = outside = ("", 0)
    is_outside = False
    while frame is not None and not frame.f_code.co_filename.startswith(_COMMAND_LINE):
        file = frame.f_code.co_filename
        owner = _owner(file)
        if owner == "user" and not is_outside:
            return file, frame.f_lineno
        if owner == "user" and not outside[0]:
            outside = (file, frame.f_lineno)
        if owner == "library" and not is_outside and not in_library[0]:
            in_library = (file, frame.f_lineno)
        is_outside = is_outside or owner == "headwater"
        frame = frame.f_back
    return in_library if in_library[0] else outside


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def is_from_a_library(kind: type[nn.Module]) -> bool:
    """Whether a module's forward was written by a library, torch too, not by the user; containers have none of their own.

    >>> is_from_a_library(nn.MultiheadAttention), is_from_a_library(nn.Sequential)
    (True, False)
    """
    if kind in _CONTAINERS:
        return False
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file is not None and _owner(file) in ("torch", "library")


def source_line(file: str, line: int) -> SourceLine:
    """The line with its text, as far as Python still knows it; a notebook's cell is known as long as it runs.

    >>> source_line("nowhere.py", 1)
    SourceLine(file='nowhere.py', line=1, code='')
    """
    code = linecache.getline(file, line).strip()[:_LONGEST_CODE]
    return SourceLine(_printable(file), line, _printable(code))


@functools.cache
def operation_name(function: Callable[..., Any]) -> str:
    """What a torch function is called in code that uses it.

    >>> operation_name(torch.sigmoid), operation_name(torch.Tensor.matmul), operation_name(torch.nn.functional.gelu)
    ('torch.sigmoid', 'Tensor.matmul', 'F.gelu')
    """
    name = resolve_name(function) or getattr(function, "__name__", None) or repr(function)
    for long, short in (("torch.nn.functional.", "F."), ("torch.Tensor.", "Tensor."), ("torch._C._nn.", "F.")):
        if name.startswith(long):
            name = short + name.removeprefix(long)
    return _printable(name.removesuffix(".__get__"))


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


@functools.cache
def _owner(file: str) -> str:
    """Whose code a file is: "torch", "headwater", "library" (installed, or Python's own) or "user"."""
    if file.startswith(_TORCH):
        return "torch"
    if file.startswith(_OWN):
        return "library" if file.startswith(_OWN_NETWORKS) else "headwater"
    if file.startswith("<frozen ") or any(file.startswith(folder) for folder in _library_folders()):
        return "library"
    return "user"


@functools.cache
def _library_folders() -> tuple[str, ...]:
    return tuple(dict.fromkeys(_found_library_folders()))


def _found_library_folders() -> Iterator[str]:
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_paths()[name]
    yield from site.getsitepackages()
    yield site.getusersitepackages()
