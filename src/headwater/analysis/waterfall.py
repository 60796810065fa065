"""The decades between the loss and the first layer, split by cause: like a waterfall chart, the parts add up to the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from headwater.analysis.causes import Cause, cause_of, hands_on, is_product
from headwater.analysis.functional_layers import weight_layers
from headwater.analysis.gain import backward_gain, cotangent, cotangent_signals, decades, norm_ratio
from headwater.analysis.gradient_path import Layer, headwaters, is_chain, leaf_calls, returns_a_number
from headwater.analysis.operation_path import OperationFlow, Step, log_ratio, operation_flow
from headwater.recording import Operation, Recording, SignalKind, SourceLine, computed_once

BETWEEN_MODULES = "between modules"  # the operation of a step, where operations were not recorded
_ROUNDING_DECADES = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterfallStep:
    """One operation on the only way of the gradient, or one block in which it has several ways.

    Args:
        cause: why the gradient changes its size there.
        operation: name of the torch function, module type or autograd node; of a block, of the module around it.
        module: path of the module it ran in; "" for the model itself and for the loss.
        decades: log10 of norm(gradient after it) / norm(gradient before it), in the gradient's direction.
        line: of the user's code, where lines were recorded.
        branch_share: of a block with a shortcut, norm(what came through the branch) / norm(what arrives at the block); nan where
            nothing arrives.
        shortcut_share: the same of what came through the shortcut.
        operations: indices of the recording's operations between the two places, in execution order; none without operations.
    """

    cause: Cause
    operation: str
    module: str
    decades: float
    line: SourceLine | None = None
    branch_share: float | None = None
    shortcut_share: float | None = None
    operations: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaterfallPart:
    """What all steps of one kind cost together.

    Args:
        cause: why the gradient changes its size there.
        operation: what the steps have in common.
        decades: sum over the steps; negative for a loss.
        calls: how many steps.
        modules: the modules they ran in, each once, in the gradient's order.
    """

    cause: Cause
    operation: str
    decades: float
    calls: int
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The way of the gradient from the loss to the first layer that it has to reach.

    Args:
        steps: in the gradient's order; their decades add up to `total_decades`.
        module: path of the layer at the end.
        reason: why there are no steps; "" if there are some.
    """

    steps: tuple[WaterfallStep, ...]
    module: str
    reason: str = ""
    parts: tuple[WaterfallPart, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", _parts(self.steps))

    def __iter__(self) -> Iterator[WaterfallPart]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def total_decades(self) -> float:
        """log10 of norm(gradient at the first layer's output) / norm(gradient of the loss by itself, or the cotangent)."""
        return math.fsum(step.decades for step in self.steps)

    @property
    def gain_decades(self) -> float:
        """The same from the model's output: without the loss, whose slope is not the network's affair."""
        return math.fsum(step.decades for step in self.steps if step.cause is not Cause.LOSS)


@computed_once
def waterfall(recording: Recording) -> Waterfall:
    """The waterfall of a recording.

    From the operations, where they were recorded (`diagnose` does), else from the modules, where each reads what the one
    before it returned. At merges a block is one step.

    >>> from headwater.recording import RecordingBuilder
    >>> waterfall(RecordingBuilder().build()).reason
    'no backward pass was recorded'
    """
    layers = weight_layers(recording)
    if cotangent(recording) is None or not layers:
        return Waterfall((), "", "no backward pass was recorded")
    first = _first_layer(layers)
    if recording.operations:
        return _from_operations(recording, first)
    if is_chain(recording):
        return Waterfall(tuple(_from_modules(recording, first)), first.call.module)
    return Waterfall(
        (), first.call.module, "the modules are no chain, and operations were not recorded: use diagnose()"
    )


def _first_layer(layers: Sequence[Layer]) -> Layer:
    first = headwaters(layers)
    return first[0] if first else layers[0]


def _from_operations(recording: Recording, first: Layer) -> Waterfall:
    made = [signal.tensor for signal in recording.select(SignalKind.ACTIVATION_GRADIENT, depth=first.call.depth)]
    target = next((recording.operation_by_tensor[t] for t in made if t in recording.operation_by_tensor), None)
    target = target if first.operation is None else first.operation
    if target is None:
        return Waterfall((), first.call.module, "it is not known which operation made the first layer's output")
    flow = operation_flow(recording)
    made_output = _that_made_the_output(recording)
    steps = [part for step in flow.way_to(target) for part in _steps(recording, flow, step, made_output)]
    return Waterfall(tuple(steps), first.call.module)


def _that_made_the_output(recording: Recording) -> int:
    """Index of the last operation that made a tensor whose gradient is the cotangent: what comes after it is the loss."""
    by_tensor = recording.operation_by_tensor
    made = [by_tensor[signal.tensor] for signal in cotangent_signals(recording) if signal.tensor in by_tensor]
    return max(made, default=len(recording.operations))


def _steps(recording: Recording, flow: OperationFlow, step: Step, made_output: int) -> Iterator[WaterfallStep]:
    """The loss and the model apart, where a step has to do with both (a loss that reads more than the output)."""
    start = step.operations[-1]
    of_loss = [operation for operation in step.operations if operation.index > made_output or operation.depth < 0]
    if start not in of_loss:
        yield _of_model(recording, flow, step, step.operations, step.decades)
        return
    of_model = tuple(operation for operation in step.operations if operation not in of_loss)
    reference = cotangent(recording)
    spent = step.decades
    if of_model and reference is not None:
        spent = log_ratio(reference.norm, start.gradient_norm)
    yield WaterfallStep(cause=Cause.LOSS, operation=start.name, module="", decades=spent, line=start.line)
    if of_model and reference is not None:
        yield _of_model(recording, flow, step, of_model, step.decades - spent)


def _of_model(
    recording: Recording, flow: OperationFlow, step: Step, operations: tuple[Operation, ...], step_decades: float
) -> WaterfallStep:
    start = operations[-1]
    lines = [operation.line for operation in reversed(operations) if operation.line is not None]
    around = _common_caller(recording, {operation.depth for operation in operations})
    name, cause = start.name, cause_of(start.name)
    branch_share = shortcut_share = None
    if len(operations) > 1:
        name = recording.calls[around].module_type if around >= 0 else name
        cause = _cause_of_block(operations, name)
        passing = {o.index: hands_on(o.name) or _scales(flow, o) for o in step.operations}
        shares = flow.passes_unchanged(step, passing)
        if shares is not None and cause is not Cause.ACTIVATION:
            cause = Cause.SHORTCUT
            whole = start.gradient_norm or math.nan  # no gradient has no shares
            branch_share, shortcut_share = (share / whole for share in shares)
    elif around >= 0 and not recording.children(around) and flow.num_operations_in(around) == 1:
        name = recording.calls[around].module_type  # which is what stands in the user's code
        cause = cause_of(name) if cause is Cause.OTHER else cause
    return WaterfallStep(
        cause=cause,
        operation=name,
        module=recording.calls[around].module if around >= 0 else "",
        decades=step_decades,
        line=lines[0] if lines else None,
        branch_share=branch_share,
        shortcut_share=shortcut_share,
        operations=tuple(operation.index for operation in operations),
    )


def _scales(flow: OperationFlow, operation: Operation) -> bool:
    """Whether it multiplies one tensor by what is none of the gradient's way, as DeepNorm does with its shortcut."""
    return is_product(operation.name) and len(flow.producers[operation.index]) == 1


def _cause_of_block(operations: Sequence[Operation], module_type: str) -> Cause:
    """Of operations between which the gradient has several ways, and which share a module."""
    of_module = cause_of(module_type)
    if of_module in (Cause.ACTIVATION, Cause.NORMALISATION, Cause.ATTENTION):
        return of_module
    causes = [cause_of(operation.name) for operation in operations]
    softmax = any("softmax" in operation.name.lower() for operation in operations)
    if Cause.ATTENTION in causes or (softmax and causes.count(Cause.WEIGHTS) > 1):
        return Cause.ATTENTION
    return of_module


def _common_caller(recording: Recording, depths: set[int]) -> int:
    """Depth of the innermost call around all the calls."""
    chains: list[list[int]] = []
    for depth in depths:
        chain = [depth]
        while chain[-1] >= 0:
            chain.append(recording.calls[chain[-1]].parent)
        chains.append(chain)
    shared = set(chains[0]).intersection(*chains[1:])
    return max(shared, default=-1)


def _from_modules(recording: Recording, first: Layer) -> Iterator[WaterfallStep]:
    """Of a chain of leaf calls: each one's gain, and what operations of no module do between them."""
    calls = [c for c in leaf_calls(recording) if c.depth > first.call.depth and not returns_a_number(recording, c)]
    arriving = cotangent(recording)
    for call in reversed(calls):
        made = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
        yield from _between(decades(norm_ratio(made, arriving)))
        gain = decades(backward_gain(recording, call.depth))
        yield WaterfallStep(
            cause=cause_of(call.module_type), operation=call.module_type, module=call.module, decades=gain
        )
        arriving = recording.signal(SignalKind.INPUT_GRADIENT, call.depth)
    made = recording.signal(SignalKind.ACTIVATION_GRADIENT, first.call.depth)
    yield from _between(decades(norm_ratio(made, arriving)))


def _between(gap: float) -> Iterator[WaterfallStep]:
    if abs(gap) > _ROUNDING_DECADES:
        yield WaterfallStep(cause=Cause.OTHER, operation=BETWEEN_MODULES, module="", decades=gap)


def _parts(steps: Sequence[WaterfallStep]) -> tuple[WaterfallPart, ...]:
    def kind(step: WaterfallStep) -> tuple[str, str]:
        return (step.cause, step.operation)

    parts = []
    for _, group in groupby(sorted(steps, key=kind), kind):
        same = list(group)
        parts.append(
            WaterfallPart(
                cause=same[0].cause,
                operation=same[0].operation,
                decades=math.fsum(step.decades for step in same),
                calls=len(same),
                modules=tuple(dict.fromkeys(step.module for step in same)),
            )
        )
    return tuple(sorted(parts, key=lambda part: (part.decades, part.cause, part.operation)))
