"""Watches the calls and tensors of a pass through process-wide module hooks.

Process-wide hooks leave the user's modules untouched: nothing is registered on 10,000 modules, attention's fused
path stays as it is, ScriptModules are seen, and there is nothing to clean up on a module.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from headwater.capture import torch_internals
from headwater.capture.gradient_hooks import GradientHooks
from headwater.capture.layers import is_layer
from headwater.capture.noting import Notes, measured_sum, noting_failures
from headwater.capture.observations import Measured, ObservedCall, ObservedInput, ObservedTensor
from headwater.capture.open_calls import OpenCalls
from headwater.capture.rectifiers import has_channels_first, is_rectifier, unit_extremes
from headwater.capture.recurrent_calls import RecurrentCalls
from headwater.capture.recurrent_outputs import rectified_units, tanh_derivatives
from headwater.capture.source_lines import calling_line
from headwater.capture.spread import relative_spread
from headwater.capture.structure import named_tensors, unknown_types
from headwater.capture.unregistered import UnregisteredModules
from headwater.recording import TensorStats


class PassObserver:
    """Observes every call of a model's modules between `start` and `stop`.

    Args:
        modules: what to observe; calls of other modules in the process are ignored.
        exponents: also count gradients per binary exponent.
    """

    def __init__(self, modules: list[nn.Module], *, exponents: bool = False) -> None:
        self.calls: list[ObservedCall] = []
        self.after_call: Callable[[nn.Module], None] | None = None  # is told each module that has run
        self.notes: Notes = {}
        self.notes_lines = False  # of the calls, and how their samples differ: set before the forward pass
        self.unregistered = UnregisteredModules()
        self._observed = {id(module) for module in modules}
        self._rectifiers = {id(module) for module in modules if is_rectifier(module)}
        self._calls_without_grad: dict[int, list[ObservedCall]] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, ObservedTensor]] = {}
        self._handles: list[RemovableHandle] = []
        self._last_read: tuple[ObservedCall, Tensor, int] | None = (
            None  # the latest layer, what it reads, and its version
        )
        self._open = OpenCalls()
        self.gradients = GradientHooks(self._open, self.notes, exponents=exponents)
        self.recurrent = RecurrentCalls(self.gradients.hook_gradient, self.notes)

    def start(self) -> None:
        """Registers the process-wide hooks."""
        hooks = torch.nn.modules.module
        self._handles.append(hooks.register_module_forward_pre_hook(self._before_forward))
        self._handles.append(hooks.register_module_forward_hook(self._after_forward, with_kwargs=True))

    def stop(self) -> None:
        """Removes every hook this observer registered, and lets go of the user's tensors."""
        for handle in self._handles:
            torch_internals.remove_hook(handle)
        self.gradients.remove()
        for call in self.calls:
            call.forget_graph()
        self._handles.clear()
        self._last_read = None
        self._seen.clear()
        self._calls_without_grad.clear()
        self._open.clear()
        self.recurrent.clear()

    def observes(self, module: nn.Module) -> bool:
        """Whether the module was part of the model when the observation began."""
        return id(module) in self._observed

    def made_by_nodes(self) -> list[int]:
        """Sequence numbers of the autograd nodes that made the tensors whose gradients are read."""
        return [
            tensor.sequence_number for call in self.calls for _, tensor in call.outputs if tensor.sequence_number >= 0
        ]

    def running(self) -> Sequence[ObservedCall]:
        """The observed calls that this thread is inside of, innermost last."""
        return self._open.running()

    def producer_of(self, tensor: Tensor) -> nn.Module | None:
        """The innermost module that returned the tensor; None for what an operation of no module made."""
        known = self._seen.get(id(tensor))
        return known[2].producer if known is not None and known[0]() is tensor else None

    @property
    def a_forward_is_running(self) -> bool:
        """Whether this thread is inside an observed call (a backward pass seen then is the model's own affair)."""
        return bool(self._open.running())

    @noting_failures
    def _before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch_internals.trace_is_running():
            self.notes["Calls inside torch.jit.trace are not observed."] = None
            return
        second_run = torch_internals.backward_is_running()
        if id(module) not in self._observed:
            if not second_run and self.a_forward_is_running and next(module.parameters(), None) is not None:
                name = type(module).__name__
                self.notes[f"A {name} that is not part of the model ran inside of it, and was not observed."] = None
                self.unregistered.note_call(module, self._open.running()[-1])
            return
        if second_run and not (self._calls_without_grad.get(id(module)) and torch.is_grad_enabled()):
            return
        calls = self._open.running()
        parent = calls[-1] if calls else None
        call = ObservedCall(module, parent, torch.is_grad_enabled(), torch_internals.next_sequence_number())
        call.is_second_run = second_run
        if not second_run:
            self.calls.append(call)
        if parent is not None:
            parent.children.append(call)
        self._open.begin(call)
        if self.notes_lines:
            call.line = calling_line(call.frame)
        if torch_internals.has_user_forward_hooks(module):
            # Process-wide hooks run before the module's own, which may replace the output: look after the last of them.
            call.late_hook = module.register_forward_hook(self._after_user_hooks, with_kwargs=True)
        if torch_internals.has_user_forward_pre_hooks(module):
            call.args_before_hooks = args
        self._observe_inputs(call, named_tensors(args))  # now, because the module may change its input in place

    @noting_failures
    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = self._open.returning() if id(module) in self._observed else None
        if call is not None and call.late_hook is None:
            self._finish(call, args, kwargs, output)

    @noting_failures
    def _after_user_hooks(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = self._open.returning()
        if call is not None and call.late_hook is not None:
            call.late_hook.remove()
            call.late_hook = None
            self._finish(call, args, kwargs, output)

    def _finish(self, call: ObservedCall, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._open.end(call)
        call.finished = True
        call.end_sequence_number = torch_internals.next_sequence_number()
        if self.after_call is not None:
            self.after_call(call.module)
        if call.args_before_hooks is not None and not _same_tensors(call.args_before_hooks, args):
            call.inputs.clear()
            self._observe_inputs(call, named_tensors(args))
        if kwargs:
            self._observe_inputs(call, named_tensors(kwargs))
        tensors = named_tensors(output)
        if not call.is_second_run:
            self._observe_outputs(call, tensors, output)
            self._look_inside(call, output)
            self.recurrent.note(call, args, kwargs, output)
        call.output_nodes = {tensor.grad_fn for _, tensor in tensors if tensor.grad_fn is not None}
        if call.is_second_run:
            self.gradients.hook_inputs(call)
            self._attach_to_first_run(call, tensors)
        elif call.parent is None:
            self.gradients.hook_inputs_of_all(call)
        if not call.grad_enabled:
            self._calls_without_grad.setdefault(id(call.module), []).append(call)

    def _observe_outputs(self, call: ObservedCall, tensors: list[tuple[str, Tensor]], output: Any) -> None:
        if self.notes_lines and tensors and (call.parent is None or not call.children or is_layer(call.module)):
            call.spread = relative_spread(tensors[0][1])
        if call.parent is None and self._last_read is not None:
            layer, source, version = self._last_read
            self._last_read = None
            if source._version == version:  # what was changed in place since is no longer what the layer has read
                layer.read_spread = relative_spread(source)
        for path, tensor in tensors:
            observed = self._observe(tensor, call)
            if observed.producer is None:
                observed.producer = call.module
            call.outputs.append((path, observed))
            call.output_requires_grad |= tensor.requires_grad
            call.output_is_floating |= tensor.is_floating_point() or tensor.is_complex()
            self.gradients.hook_output(tensor, observed)
        if not tensors and output is not None:
            for name in sorted(unknown_types(output)):
                self.notes[f"{type(call.module).__name__} returns a {name}: no tensor was found in it."] = None

    def _observe_inputs(self, call: ObservedCall, tensors: list[tuple[str, Tensor]]) -> None:
        for path, tensor in tensors:
            call.input_requires_grad |= tensor.requires_grad
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            observed = self._observe(tensor, call)
            if any(known.tensor is observed for known in call.inputs):  # attention(x, x, x) reads one tensor
                continue
            if not call.inputs and id(call.module) in self._rectifiers and observed.stats is not None:
                call.units = self._units(tensor, observed.producer)
            if self.notes_lines and not call.inputs and not call.is_second_run and is_layer(call.module):
                # Which is the last layer is not known before the end: until then only the latest is kept, and not copied.
                self._last_read = None if tensor.is_inference() else (call, tensor.detach(), tensor._version)
            read = ObservedInput(path, observed)
            if tensor.requires_grad and call.grad_enabled and not torch_internals.is_functorch_wrapper(tensor):
                node = tensor.grad_fn or torch_internals.gradient_accumulator(tensor)
                read.source = (node, tensor.output_nr)
                if tensor.grad_fn is not None and observed.sequence_number < 0:  # made by no module
                    observed.sequence_number = tensor.grad_fn._sequence_nr()
            call.inputs.append(read)

    def _look_inside(self, call: ObservedCall, output: Any) -> None:
        if any(observed.stats is None for _, observed in call.outputs):  # they cannot be read
            return
        with suppress(Exception), torch_internals.without_function_modes():  # a subclass may return what it likes
            call.inside = tanh_derivatives(call.module, output)
            call.units = call.units or rectified_units(call.module, output)

    def _units(self, tensor: Tensor, producer: nn.Module | None) -> tuple[Tensor, Tensor, int] | None:
        try:
            return unit_extremes(tensor, channels_first=has_channels_first(tensor, producer))
        except Exception:  # noqa: BLE001 - `_observe` has measured the same tensor, and noted why it cannot be
            return None

    def _observe(self, tensor: Tensor, call: ObservedCall) -> ObservedTensor:
        """The observed tensor, measured when it is seen first, or first in this version."""
        version = 0 if tensor.is_inference() else tensor._version
        known = self._seen.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version:
            return known[2]
        if known is not None and known[0]() is tensor and known[2].is_hooked and _lost_its_node(tensor, known[2]):
            self.notes[
                f"The gradient at an output of {type(known[2].producer).__name__} is not observed: "
                "it is a view that was changed in place."
            ] = None
        observed = ObservedTensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if not call.is_second_run:  # the first run was measured
            observed.stats = measured_sum([tensor], f"A tensor of {type(call.module).__name__}", self.notes)
        self._seen[id(tensor)] = (weakref.ref(tensor), version, observed)
        return observed

    def _attach_to_first_run(self, call: ObservedCall, tensors: list[tuple[str, Tensor]]) -> None:
        """Reentrant checkpointing: the first run had no graph, so its gradients must be read in this second one."""
        first = self._first_run_of(call, tensors)
        for (_, observed), (_, tensor) in zip(first.outputs, tensors, strict=False):
            self.gradients.hook_output(tensor, observed)
            first.output_requires_grad |= tensor.requires_grad
        passed_on = {observed for _, observed in first.outputs}
        for read, earlier in zip(call.inputs, first.inputs, strict=False):
            if earlier.tensor not in passed_on:
                earlier.gradients = read.gradients

    def _first_run_of(self, call: ObservedCall, tensors: list[tuple[str, Tensor]]) -> ObservedCall:
        """The latest call whose outputs had the same statistics: a second run repeats the first one's bits."""
        candidates = self._calls_without_grad[id(call.module)]
        found = candidates[-1]
        if len(candidates) > 1:
            moments = [measured_sum([tensor], "A checkpoint's output", self.notes) for _, tensor in tensors]
            for candidate in reversed(candidates):
                firsts = [observed.stats for _, observed in candidate.outputs]
                if len(firsts) == len(moments) and all(map(_same_moments, firsts, moments)):
                    found = candidate
                    break
        candidates.remove(found)
        return found


def _lost_its_node(tensor: Tensor, observed: ObservedTensor) -> bool:
    """Whether the node that made the tensor is no longer in the graph: so it is with a view that was changed in place."""
    node = tensor.grad_fn
    return tensor._is_view() and node is not None and node._sequence_nr() != observed.sequence_number


def _same_tensors(left: Any, right: Any) -> bool:
    return [id(tensor) for _, tensor in named_tensors(left)] == [id(tensor) for _, tensor in named_tensors(right)]


def _same_moments(first: Measured | None, second: Measured | None) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return isinstance(first, TensorStats) and isinstance(second, TensorStats) and first == second
