"""`record(model)`: watches the passes that run inside a `with` block and makes a recording of them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from headwater._version import __version__
from headwater.capture import torch_internals
from headwater.capture.assembly import assemble
from headwater.capture.cpu_moments import load_fused_moments
from headwater.capture.nonfinite_search import NonFiniteSearch
from headwater.capture.observations import ObservedCall
from headwater.capture.observer import PassObserver
from headwater.capture.operation_assembly import ObservedOperations, intervals_of_leaf_calls
from headwater.capture.operation_graph import OperationGraph
from headwater.capture.recurrent_probe import time_steps_of
from headwater.capture.source_lines import SourceLines
from headwater.capture.weights import WeightWatcher
from headwater.recording import Context, Recording, Series


class RecorderError(RuntimeError):
    """A recorder was used out of order; the message says what to do."""


class Recorder:
    """Watches one model from the beginning to the end of a `with` block; made by `record`."""

    def __init__(self, model: nn.Module, *, exponents: bool = False) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected a torch.nn.Module to record, got {type(model).__name__}")
        self._model = torch_internals.uncompiled(model)
        self._exponents = exponents
        self._circumstances: dict[str, Any] = {}
        self._recording: Recording | None = None
        self._exit: ExitStack | None = None
        self._lines: SourceLines | None = None
        self._operations: ObservedOperations | None = None

    @property
    def recording(self) -> Recording:
        """What was recorded, once the `with` block has ended.

        Raises:
            RecorderError: the block has not ended yet, or has not begun.
        """
        if self._recording is None:
            raise RecorderError(
                "the recording is finished when the block 'with record(model) as recorder:' ends; read it after that"
            )
        return self._recording

    @torch_internals.unseen
    def __enter__(self) -> Self:
        if self._exit is not None:
            raise RecorderError("this recorder is recording already; call record(model) again for a second one")
        self._recording = None
        load_fused_moments()
        named_modules = list(self._model.named_modules())
        self._observer = PassObserver([module for _, module in named_modules], exponents=self._exponents)
        self._weights = WeightWatcher(self._model, named_modules, self._observer)
        with ExitStack() as stack:  # whatever fails in here leaves nothing behind
            stack.callback(self._observer.stop)
            stack.enter_context(torch_internals.compiled_code_runs_eagerly())
            self._weights.start()
            self._observer.after_call = self._weights.begin_late
            self._observer.start()
            self._exit = stack.pop_all()
        return self

    @torch_internals.unseen
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._exit is not None
        stack, self._exit = self._exit, None
        with stack:
            self._weights.stop()
        context = Context(**{"cotangent": "user", "versions": _versions(), **self._circumstances})
        self._recording = assemble(self._model, self._observer, self._weights, self._operations, context)
        self._lines = self._operations = None
        del self._observer, self._weights

    def trace_lines(self) -> SourceLines:
        """A context manager for the forward pass and the loss: inside, each operation is noted with its line of code."""
        self._observer.notes_lines = True
        self._lines = SourceLines(self._observer.running, self._observer.producer_of)
        return self._lines

    def keep_time_steps(self) -> None:
        """From now on, what fused recurrent modules read is kept (a float64 copy), so that `time_steps` can probe them."""
        self._observer.recurrent.is_wanted = True

    @torch_internals.unseen
    def time_steps(self, scale_exponent: int) -> list[Series]:
        """The gradient at each time step of the fused recurrent modules, after the backward pass.

        Args:
            scale_exponent: the loss was scaled by two to this power.
        """
        if not self._observer.recurrent.calls:
            return []
        names = {id(module): name for name, module in reversed(list(self._model.named_modules()))}
        found: list[Series] = []
        for kept in self._observer.recurrent.calls:
            place = (names.get(id(kept.call.module), ""), self.depth_of(kept.call))
            found += time_steps_of(kept, place, scale_exponent, self._observer.notes)
        return found

    def search_non_finite(self) -> NonFiniteSearch:
        """A context manager for the forward pass and the loss: inside, every result is looked at for NaN and Inf."""
        return NonFiniteSearch(self._observer.running)

    @torch_internals.unseen
    def follow_operations(self, roots: Sequence[Tensor]) -> None:
        """Follows the backward pass that will begin at the roots from operation to operation, not only between modules.

        Args:
            roots: what `backward` will be called on.
        """
        calls = self._observer.calls
        intervals = (
            intervals_of_leaf_calls(calls)
            if self._lines is None
            else [(traced.first, traced.end) for traced in self._lines.operations]
        )
        products = set[int]() if self._lines is None else self._lines.products
        graph = OperationGraph(roots, intervals, self._observer.made_by_nodes(), products)
        self._observer.gradients.hook_operations(graph, only_narrow=self._lines is None)
        self._operations = ObservedOperations(graph, self._lines, calls)

    def depth_of(self, call: ObservedCall | None) -> int:
        """Position of a call among all calls so far; -1 for none."""
        return -1 if call is None else self._observer.calls.index(call)

    def note_circumstances(self, **circumstances: Any) -> None:
        """Fields of the recording's `Context` that only the caller knows, such as the loss."""
        self._circumstances.update(circumstances)

    def note_trained(self, parameters: Iterable[Tensor]) -> None:
        """What an optimiser holds: a module outside of the model that has only such parameters is not untrained."""
        self._observer.unregistered.note_trained(parameters)


def record(model: nn.Module, *, exponents: bool = False) -> Recorder:
    """A context manager that records every forward and backward pass of the model inside its `with` block.

    Outputs, gradients, parameters, buffers, RNG states, flags, hooks and attributes are what they would have been
    without it, bit for bit, also after an exception. A compiled model runs its original Python meanwhile.

    Args:
        model: any module; a part of a network is recorded with the part as root.
        exponents: also count the gradients' elements per binary exponent (slower).

    Raises:
        TypeError: not a module.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    >>> with record(model) as recorder:
    ...     model(torch.ones(1, 3)).sum().backward()
    >>> [call.module for call in recorder.recording.calls]
    ['', '0', '1']
    """
    return Recorder(model, exponents=exponents)


def _versions() -> dict[str, str]:
    return {"headwater": __version__, "torch": torch.__version__, "python": platform.python_version()}
