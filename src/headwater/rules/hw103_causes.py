"""Why a gradient becomes exactly zero at one place, as far as a recording can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from headwater.analysis.dataflow import Dataflow
from headwater.analysis.gain import cotangent, decades, norm_ratio
from headwater.analysis.zero_deadlocks import deadlocks
from headwater.analysis.zero_origins import ZeroOrigin
from headwater.analysis.zero_slopes import ZeroSlopes
from headwater.recording import Call, Recording, Signal, SignalKind, TensorStats
from headwater.rules.hw103_known_causes import (
    ALL_OFF,
    ANOTHER_RUN,
    CONFIDENT,
    DROPPED,
    DROPPED_BLOCK,
    LOSS_IGNORES,
    NOT_CHOSEN,
    ONE_ELEMENT,
    ONE_UNIT,
    SATURATED,
    SECOND_DERIVATIVE,
    UNKNOWN,
    Cause,
    Kind,
    deadlocked,
)
from headwater.rules.hw103_look_ahead import LookAhead, self_and_ancestors

SOFTMAX = ("Softmax", "LogSoftmax", "Softmin")
_PLATEAUS = ("Sigmoid", "LogSigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", *SOFTMAX)
_RECTIFIERS = ("ReLU", "ReLU6", "Threshold")
# The smallest number above zero, relative to a gradient near one at the output, is 1e-45 (1e-7 in float16).
_UNDERFLOW_DECADES = {"float16": -5.0}
_USUAL_UNDERFLOW_DECADES = -30.0
SMALLEST_NUMBER = {"float16": "2**-24", "bfloat16": "2**-133", "float32": "2**-149", "float64": "2**-1074"}


class Explainer:
    """Explains the places of one recording; what they share is looked up once."""

    def __init__(self, recording: Recording, flow: Dataflow) -> None:
        self._recording = recording
        self._flow = flow
        self._reference = cotangent(recording)
        self._outputs = {t for depth in recording.children(-1) for t in flow.outputs[depth]}
        self.zero_weights = _zero_weights(recording)
        self._around_zero_weights = {
            name: weight for module, weight in self.zero_weights.items() for name in self_and_ancestors(module)
        }
        self._zero_children: dict[int, list[Call]] = {}
        self._ahead = LookAhead(recording, flow)
        self._slopes = ZeroSlopes(recording)
        self._smallest_gain = min(self._gains(), default=0.0)

    def cause(self, origin: ZeroOrigin) -> Cause:
        """The first explanation that the recording bears out."""
        call = self._recording.calls[origin.depth]
        found = self._between(call, origin) if origin.is_after else self._at(call)
        fitting = (cause for cause in found if cause is not None and not self._ahead.refutes(cause, origin))
        return self._ahead.with_outcome(next(fitting, UNKNOWN), origin)

    def _at(self, call: Call) -> Iterator[Cause | None]:
        output = self._output(call.depth)
        yield ONE_UNIT if call.module_type in SOFTMAX and output and _is_constant_softmax(output) else None
        yield _from_weight(self.zero_weights.get(call.module))
        yield DROPPED if "Drop" in call.module_type or "StochasticDepth" in call.module_type else None
        yield ALL_OFF if call.module_type in _RECTIFIERS else None
        yield self._plateau(call)
        yield ONE_ELEMENT if "Norm" in call.module_type and output and output.stats.is_zero else None
        yield self._second_derivative(call)
        gain = decades(norm_ratio(self._gradient(call.depth), self._reference))
        yield self._underflow(gain, "" if output is None else output.dtype)

    def _between(self, call: Call, origin: ZeroOrigin) -> Iterator[Cause | None]:
        output = self._output(call.depth)
        yield LOSS_IGNORES if self._outputs.intersection(self._flow.outputs[call.depth]) else None
        caller = self._recording.calls[call.parent] if call.parent >= 0 else None
        yield _from_weight(self.zero_weights.get(caller.module)) if caller is not None else None
        yield from (self._from_gate(gate) for gate in self._gates(call.parent) if gate.depth != call.depth)
        yield self._waiting_for_another(call)
        is_passed_over = self._another_was_chosen(call) and not self._slopes.are_to_blame(origin)
        yield NOT_CHOSEN if is_passed_over else None
        yield ANOTHER_RUN if not call.input_requires_grad and self._another_run_trains(call) else None
        if output is not None:
            returned = self._output(call.parent) if call.parent >= 0 else None
            yield ONE_UNIT if returned and returned.shape == output.shape and _is_constant_softmax(returned) else None
            yield ALL_OFF if _is_never_positive(output.stats) else None
            yield self._second_derivative(call)
            is_dropped = self._others_of_a_stack_pass(call) and not self._slopes.are_to_blame(
                origin, with_numbers=False
            )
            yield DROPPED_BLOCK if is_dropped else None
            yield self._underflow(self._smallest_gain, output.dtype)

    def _waiting_for_another(self, call: Call) -> Cause | None:
        return deadlocked(deadlocks(self._recording)) if call.module in self._waiting else None

    @cached_property
    def _waiting(self) -> frozenset[str]:
        """The modules whose own parameters wait for others."""
        return frozenset(name.rpartition(".")[0] for one in deadlocks(self._recording) for name in one.parameters)

    def _second_derivative(self, call: Call) -> Cause | None:
        """Where the model differentiates itself, its piecewise linear functions pass nothing the second time."""
        if not self._recording.series("differentiates_itself"):
            return None
        around = f"{call.module}." if call.module else ""
        gradients = (s for s in self._recording.select(SignalKind.WEIGHT_GRADIENT) if f"{s.module}.".startswith(around))
        return SECOND_DERIVATIVE if any(not signal.stats.is_zero for signal in gradients) else None

    def _others_of_a_stack_pass(self, call: Call) -> bool:
        """Whether a block of the same list gets some at the same place: code that drops blocks at random treats them alike."""
        parts = call.module.split(".")
        for i, part in enumerate(parts):
            if part.isdigit():
                before, after = parts[:i], parts[i + 1 :]
                others = (c for c in self._by_shape.get((*before, "*", *after), ()) if c.module != call.module)
                if any(other.module_type == call.module_type and self._gets_some(other.depth) for other in others):
                    return True
        return False

    @cached_property
    def _by_shape(self) -> dict[tuple[str, ...], list[Call]]:
        """Calls by their path with one number left out."""
        found: dict[tuple[str, ...], list[Call]] = {}
        for call in self._recording.calls:
            parts = call.module.split(".")
            for i, part in enumerate(parts):
                if part.isdigit():
                    found.setdefault((*parts[:i], "*", *parts[i + 1 :]), []).append(call)
        return found

    def _plateau(self, call: Call) -> Cause | None:
        if call.module_type not in _PLATEAUS:
            return None
        at_output = bool(self._outputs.intersection(self._flow.outputs[call.depth]))
        # Random cotangents ask of a confident output what a loss need not ask.
        return CONFIDENT if at_output and self._recording.context.cotangent == "random" else SATURATED

    def _from_gate(self, gate: Call) -> Cause:
        name = gate.module.rpartition(".")[2]  # not the whole path: one finding for the gates of all blocks
        return _from_weight(self._around_zero_weights.get(gate.module), f" of its gate '{name}'") or Cause(
            Kind.FAULT,
            f"It is multiplied by the output of '{name}' beside it, which is all zeros.",
            ("Look at why that gate is closed for the whole batch.",),
            if_tried=(
                f"It is multiplied by the output of '{name}' beside it, which is all zeros",
                ("Leave it if it is meant.",),
            ),
        )

    def _gates(self, parent: int) -> list[Call]:
        """Calls of the same caller that return zeros only, and get a gradient for it."""
        if parent not in self._zero_children:
            self._zero_children[parent] = [
                self._recording.calls[child]
                for child in self._recording.children(parent)
                if (output := self._output(child)) is not None and output.stats.is_zero and self._gets_some(child)
            ]
        return self._zero_children[parent]

    def _another_was_chosen(self, call: Call) -> bool:
        """Whether a call like this one, or like a caller of it that gets nothing either, reads the same and gets some."""
        while call.parent >= 0 and not self._gets_some(call.depth):
            readers = {depth for tensor in self._flow.inputs[call.depth] for depth in self._flow.readers[tensor]}
            others = (self._recording.calls[depth] for depth in readers if self._gets_some(depth))
            if any(o.parent == call.parent and o.module_type == call.module_type for o in others):
                return True
            call = self._recording.calls[call.parent]
        return False

    def _gets_some(self, depth: int) -> bool:
        gradient = self._gradient(depth)
        return gradient is not None and not gradient.is_zero

    def _another_run_trains(self, call: Call) -> bool:
        """Whether another call of the same module gets a gradient: its parameters lose nothing here."""
        gradients = self._recording.select(SignalKind.ACTIVATION_GRADIENT, module=call.module)
        return any(not signal.stats.is_zero for signal in gradients)

    def _underflow(self, gain_decades: float, dtype: str) -> Cause | None:
        bound = _UNDERFLOW_DECADES.get(dtype, _USUAL_UNDERFLOW_DECADES)
        return _underflow_of(dtype) if gain_decades <= bound else None

    def _gains(self) -> Iterator[float]:
        for signal in self._recording.select(SignalKind.ACTIVATION_GRADIENT):
            gain = decades(norm_ratio(signal.stats, self._reference))
            if math.isfinite(gain):
                yield gain

    def _output(self, depth: int) -> Signal | None:
        return next(iter(self._recording.select(SignalKind.ACTIVATION, depth=depth)), None)

    def _gradient(self, depth: int) -> TensorStats | None:
        return self._recording.signal(SignalKind.ACTIVATION_GRADIENT, depth)


@dataclass(frozen=True, slots=True)
class ZeroWeight:
    """A parameter that is all zeros, whether it gets a gradient that will change that, and whether an optimiser lacks it."""

    item: str
    heals: bool
    is_left_out: bool


def _zero_weights(recording: Recording) -> Mapping[str, ZeroWeight]:
    """By the module that uses it: its owner, or the nearest caller around an owner that never ran itself."""
    called = {call.module for call in recording.calls}
    moving = {s.parameter for s in recording.select(SignalKind.WEIGHT_GRADIENT) if not s.stats.is_zero}
    left_out = {(one.module, one.item) for one in recording.series("in_optimizer") if not one.values.max()}
    found: dict[str, ZeroWeight] = {}
    for signal in recording.select(SignalKind.WEIGHT):
        if not signal.stats.is_zero or signal.item.endswith("bias"):
            continue
        module = next((name for name in self_and_ancestors(signal.module) if name in called), signal.module)
        name = signal.item if module == signal.module else signal.parameter  # "5" of a ParameterList says nothing
        is_left_out = (signal.module, signal.item) in left_out
        weight = ZeroWeight(name, signal.parameter in moving, is_left_out)
        found[module] = weight if weight.heals else found.get(module, weight)
    return found


def _from_weight(weight: ZeroWeight | None, of_module: str = "") -> Cause | None:
    if weight is None:
        return None
    text = f"The parameter '{weight.item}'{of_module} is all zeros"
    leave = (
        "Leave it if it is meant (ReZero, zero-gamma, LoRA); otherwise initialise it: nn.init.xavier_normal_(weight).",
    )
    if not weight.heals:
        initialise = "Initialise it, and let it require a gradient: nn.init.xavier_normal_(weight)."
        alone = f"{text}, and gets no gradient itself, so it stays so."
        return Cause(Kind.FAULT, alone, (initialise,), if_tried=(f"{text}, and gets no gradient itself", leave))
    if weight.is_left_out:
        return Cause(Kind.HEALS, f"{text}, and the optimiser does not hold it (HW402).", leave)
    alone = f"{text}, but gets a gradient itself: after one step it is zero no more, and the gradient passes."
    return Cause(Kind.HEALS, alone, leave, if_tried=(f"{text}, but gets a gradient itself", leave))


def _underflow_of(dtype: str) -> Cause:
    smallest = f" of {dtype}, {SMALLEST_NUMBER[dtype]}" if dtype in SMALLEST_NUMBER else " of its dtype"
    return Cause(
        Kind.FAULT,
        f"The gradient has become smaller than the smallest number{smallest}, and is rounded to zero.",
        ("Repair the vanishing gradient behind it first (HW101).",),
    )


def _is_constant_softmax(output: Signal) -> bool:
    """Ones only, or their logarithms."""
    stats = output.stats
    return stats.numel > 0 and (stats.is_zero or (stats.mean == 1.0 and stats.max_abs == 1.0))


def _is_never_positive(stats: TensorStats) -> bool:
    return stats.sum < 0.0 and math.isclose(-stats.sum, stats.sum_abs, rel_tol=1e-6)
