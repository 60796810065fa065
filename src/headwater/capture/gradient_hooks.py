"""Reads gradients in the backward pass: whole ones where a tensor was made, and each call's share of its inputs'.

Hooks on autograd nodes leave no attribute on the user's tensors and do not mind in-place operations.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from headwater.capture import torch_internals
from headwater.capture.input_gradients import InputGradient, boundary_edges
from headwater.capture.noting import Notes, measured_sum, noting_failures
from headwater.capture.observations import Measured, ObservedCall, ObservedInput, ObservedTensor
from headwater.capture.open_calls import OpenCalls
from headwater.capture.operation_graph import ObservedOperation, OperationGraph


class GradientHooks:
    """Hooks on autograd nodes, from the forward pass until `remove`.

    Args:
        open_calls: while any is open, a backward pass is the model's own affair and is not observed.
        notes: of what cannot be measured.
        exponents: also count gradients per binary exponent.
    """

    def __init__(self, open_calls: OpenCalls, notes: Notes, *, exponents: bool) -> None:
        self.notes = notes
        self.model_differentiates = (
            False  # a backward pass came through while a forward was running: a gradient penalty
        )
        self._open = open_calls
        self._exponents = exponents
        self._handles: list[RemovableHandle] = []
        self._input_gradients: list[InputGradient] = []
        self._kept_alive: list[Any] = []
        self._latest: tuple[Tensor, int, Measured | None] | None = None  # with its version

    def remove(self) -> None:
        """Removes every hook, and passes on what had arrived of a backward pass that was not complete."""
        for handle in self._handles:
            handle.remove()
        for gradient in self._input_gradients:
            gradient.flush()
        self._handles.clear()
        self._input_gradients.clear()
        self._kept_alive.clear()
        self._latest = None

    def measured(self, gradients: list[Tensor], owner: str) -> Measured | None:
        """The moments of a gradient that arrived in parts, with its exponents where they were asked for."""
        return measured_sum(gradients, owner, self.notes, exponents=self._exponents)

    def _measured_on_the_way(self, gradients: list[Tensor], owner: str) -> Measured | None:
        """The moments of an activation's gradient: of what was measured a moment ago, the same again.

        One tensor is often a reader's share, the whole gradient and what arrives at an operation. Not for the gradients of
        parameters, which autograd would copy if somebody held them.
        """
        if len(gradients) > 1:
            return self.measured(gradients, owner)
        gradient, latest = gradients[0], self._latest  # read once: autograd runs a thread for each device
        if latest is None or latest[0] is not gradient or latest[1] != gradient._version:
            latest = self._latest = (gradient, gradient._version, self.measured(gradients, owner))
        return latest[2]

    def hook_gradient(self, tensor: Tensor, receive: Any) -> None:
        """Calls `receive(gradient)` whenever the gradient of this tensor, complete, flows on in a backward pass."""
        node = tensor.grad_fn
        if node is None:
            node = torch_internals.gradient_accumulator(tensor)
            self._kept_alive.append(node)
        self._handles.append(node.register_prehook(partial(self._pass_gradient, tensor.output_nr, receive)))

    def hook_output(self, tensor: Tensor, observed: ObservedTensor) -> None:
        """Reads the whole gradient of what a call returned, once however many calls return it."""
        if tensor.requires_grad and not observed.is_hooked and not torch_internals.is_functorch_wrapper(tensor):
            observed.is_hooked = True
            if tensor.grad_fn is not None:
                observed.sequence_number = tensor.grad_fn._sequence_nr()
            self.hook_gradient(tensor, partial(self._receive_whole, observed))

    def hook_inputs_of_all(self, root: ObservedCall) -> None:
        """Of a finished call and all calls in it: together, which takes half the time of one by one."""
        calls = [root]
        for call in calls:  # grows meanwhile: callers come before those that they call
            calls += call.children
        for call in reversed(calls):
            if call.finished:
                self.hook_inputs(call)
        for call in calls:
            call.forget_graph()

    def hook_inputs(self, call: ObservedCall) -> None:
        """Reads the call's share of its inputs' gradients; where a child reads alone, the child's is the call's."""
        passed_on = {tensor for _, tensor in call.outputs}
        for read in call.inputs:
            if read.tensor in passed_on:  # by an Identity: whatever arrives at the output is sent to the input
                read.gradients, read.source = read.tensor.gradients, None
        read_by_source = {read.source: read for read in call.inputs if read.source is not None}
        if read_by_source:
            exits_of_children = {node: exits for child in call.children for node, exits in child.exits.items()}
            found, call.exits = boundary_edges(
                call.output_nodes, read_by_source.keys(), call.first_sequence_number, exits_of_children
            )
            for source, edges in found.items():
                self._hook_share(call, read_by_source[source], edges)

    def hook_operations(self, graph: OperationGraph, *, only_narrow: bool) -> None:
        """Reads what arrives at each operation, and where several read one, what each of them sends to it.

        Args:
            graph: the operations.
            only_narrow: only at those that all of the gradient goes through.
        """
        chosen = graph.narrow() if only_narrow else set(graph.operations)
        for operation in {chosen_one.measured_at() for chosen_one in chosen}:
            by_node: dict[Any, list[int]] = {}
            for node, number in operation.outputs:
                by_node.setdefault(node, []).append(number)
            for node, numbers in by_node.items():
                self._handles.append(node.register_prehook(partial(self._receive_at, operation, numbers)))
        for reader, producer in graph.shared():
            if producer not in chosen:
                continue
            shares = reader.sent.setdefault(producer, [])
            for edges in reader.producers[producer].values():
                gradient = InputGradient(edges, partial(self._receive_sent, shares))
                self._input_gradients.append(gradient)
                self._handles.extend(gradient.hook(edges))

    def _hook_share(self, call: ObservedCall, read: ObservedInput, edges: list[Any]) -> None:
        if not edges:
            return
        read.edges = edges
        for child in call.children:
            for childs in child.inputs:
                if childs.tensor is read.tensor and set(childs.edges) == set(edges):
                    read.gradients = childs.gradients
                    return
        gradient = InputGradient(edges, partial(self._receive_share, read.gradients))
        self._input_gradients.append(gradient)
        self._handles.extend(gradient.hook(edges))

    def _receive_share(self, shares: list[Measured], gradients: list[Tensor]) -> None:
        if self._open.running():
            return
        measured = self._measured_on_the_way(gradients, "An input gradient")
        if measured is not None:
            shares.append(measured)

    def _receive_whole(self, observed: ObservedTensor, gradient: Tensor) -> None:
        if self._open.running():
            self.model_differentiates = True
            return
        measured = self._measured_on_the_way([gradient], "An activation gradient")
        if measured is not None:
            observed.gradients.append(measured)

    @noting_failures
    def _receive_at(
        self, operation: ObservedOperation, numbers: list[int], gradients: tuple[Tensor | None, ...]
    ) -> None:
        for number in numbers:
            gradient = gradients[number]
            if gradient is None:
                continue
            measured = self._measured_on_the_way([gradient], "An operation's gradient")
            if measured is not None:
                operation.gradients.append(measured)

    def _receive_sent(self, shares: list[Measured], gradients: list[Tensor]) -> None:
        measured = self._measured_on_the_way(gradients, "An operation's gradient")
        if measured is not None:
            shares.append(measured)

    @noting_failures
    def _pass_gradient(self, output_nr: int, receive: Any, gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[output_nr]
        if gradient is not None:
            receive(gradient)
