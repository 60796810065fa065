"""HW104: the first NaN or Inf, its module and its phase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from headwater.analysis.dataflow import Dataflow, dataflow
from headwater.analysis.nonfinite_origins import (
    NonFiniteOrigin,
    backward_culprit,
    backward_origin,
    forward_culprit,
    forward_origin,
    loss_culprit,
)
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Operation, Recording, SignalKind, TensorStats
from headwater.recording.recording import KINDS
from headwater.rules.wording import distinct, named

_GRADIENTS = (SignalKind.ACTIVATION_GRADIENT, SignalKind.INPUT_GRADIENT, SignalKind.WEIGHT_GRADIENT)
_BACKWARD_CAUSE = (
    "The forward values are finite but a derivative is not: sqrt or a norm at 0, acos or asin at ±1, torch.where with an "
    "infinite branch that is not taken, a fully masked attention row."
)

_BACKWARD_REMEDIES = (
    "Move the guard inside: torch.where(ok, x, 1) before the operation, not only torch.where(ok, f(x), 0) after it.",
    "Add an eps under the root, or use a function with a safe derivative (torch.linalg.vector_norm).",
)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where it is from, in words."""

    modules: tuple[str, ...]
    stats: TensorStats | None
    what: str
    phase: str
    cause: str
    remedies: tuple[str, ...]
    operation: Operation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """HW104: a value that is not finite: where it is made, in the forward or in the backward pass.

    An error where the loss, the output or a weight gradient is not finite; a warning where a later operation masks it.
    Infinities alone in a forward tensor that nothing turns into NaN (an attention mask, the logits of forbidden actions)
    are no finding as long as the loss and every gradient are finite. No threshold.
    """

    code: ClassVar[str] = "HW104"
    name: ClassVar[str] = "non-finite"

    def check(self, recording: Recording) -> Verdict:
        """At most one finding: the origin. All that follows from it is not repeated."""
        if not recording.calls:
            return NotApplicable("no call of the model was recorded")
        severity = _severity(recording)
        if severity is None:
            return []
        origin = _weights(recording) or _inputs(recording) or _forward(recording) or _backward(recording)
        return [] if origin is None else [self._finding(origin, severity)]

    def _finding(self, origin: _Origin, severity: Severity) -> Finding:
        stats = origin.stats
        counts = "" if stats is None else f": {stats.nan_count} NaN and {stats.inf_count} Inf of {stats.numel} values"
        is_masked = severity is Severity.WARNING
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct(origin.modules),
            cause=origin.cause,
            message=(
                f"{origin.what} is the first value that is not finite, {origin.phase}{counts}."
                f"{' The loss and every weight gradient are finite: something masks it later.' if is_masked else ''}"
            ),
            evidence={
                "nan_count": 0 if stats is None else stats.nan_count,
                "inf_count": 0 if stats is None else stats.inf_count,
                "numel": 0 if stats is None else stats.numel,
                "phase": origin.phase,
                "operation": "" if origin.operation is None else origin.operation.name,
            },
            remedies=origin.remedies,
            lines=() if origin.operation is None or origin.operation.line is None else (origin.operation.line,),
        )


def _severity(recording: Recording) -> Severity | None:
    """None where nothing is wrong: all is finite, or only masks are infinite."""
    loss, table = recording.context.loss, recording.signal_table
    is_finite = not table["nan_count"].any() and not table["inf_count"].any()
    if is_finite and (loss is None or math.isfinite(loss)) and recording.operation_table["is_finite"].all():
        return None  # of most recordings
    outputs = [recording.signal(SignalKind.ACTIVATION, depth) for depth in recording.children(-1)]
    if (loss is not None and not math.isfinite(loss)) or any(stats and stats.nan_count for stats in outputs):
        return Severity.ERROR
    if _weights(recording) is not None:
        return Severity.ERROR
    is_gradient = np.isin(table["kind"], [KINDS.index(kind) for kind in _GRADIENTS])
    of_weights = table[table["kind"] == KINDS.index(SignalKind.WEIGHT_GRADIENT)]
    if np.any(of_weights["nan_count"]) or np.any(of_weights["inf_count"]):
        return Severity.ERROR
    # NaN that a call reads and gets rid of (missing values in the data) is its job.
    if (
        np.any(table["nan_count"][table["kind"] != KINDS.index(SignalKind.INPUT)])
        or np.any(table["inf_count"][is_gradient])
        or any(not operation.is_finite and not operation.is_cut for operation in recording.operations)
    ):
        return Severity.WARNING
    return Severity.WARNING if not is_gradient.any() and any(stats and stats.inf_count for stats in outputs) else None


def _weights(recording: Recording) -> _Origin | None:
    for signal in recording.select(SignalKind.WEIGHT):
        if signal.stats.nan_count or (signal.stats.inf_count and _requires_grad(recording, signal.parameter)):
            return _Origin(
                (signal.module,),
                signal.stats,
                f"The parameter '{signal.parameter}' itself",
                "before the pass",
                "An earlier step wrote it: a gradient that was not finite, or a step that was too large.",
                ("Go back to a checkpoint that is finite, and record the step that breaks it.",),
            )
    return None


def _requires_grad(recording: Recording, parameter: str) -> bool:
    """A frozen parameter that holds -inf is a mask."""
    return any(known.name == parameter and known.requires_grad for known in recording.parameters)


def _inputs(recording: Recording) -> _Origin | None:
    for depth in recording.children(-1):
        stats = recording.signal(SignalKind.INPUT, depth)
        if stats is not None and stats.nan_count:
            return _Origin(
                (recording.calls[depth].module,),
                stats,
                "The model's input",
                "before the pass",
                "The data hold it.",
                ("Check the batch with torch.isfinite, and the normalisation that made it (a zero deviation?).",),
            )
    return None


def _forward(recording: Recording) -> _Origin | None:
    flow = dataflow(recording)
    found = forward_origin(recording, flow)
    if found is None:
        return _loss(recording)
    has_nan = any(s.stats.nan_count for s in recording.select(SignalKind.ACTIVATION))
    loss = recording.context.loss
    loss_is_finite = loss is None or math.isfinite(loss)
    if not has_nan and loss_is_finite and _backward(recording) is not None:
        return None  # infinities that the forward pass got over
    call = recording.calls[found.depth]
    operation = forward_culprit(recording, found)
    place = f"What {named(call)} reads" if found.is_between else f"The output of {named(call)}"
    return _Origin(
        _places(recording, flow, found) if found.is_between else (call.module,),
        found.stats,
        place,
        "in the forward pass",
        f"{_maker(recording, found, operation)} leaves its domain or the range of its dtype (exp, log, division, sqrt, a softmax over a "
        "fully masked row).",
        (
            "Keep its input in range: clamp before log, sqrt and division, subtract the maximum before exp.",
            "Let each row of an attention attend to something.",
            "In float16, try bfloat16 or float32 for this module.",
        ),
        operation,
    )


def _maker(recording: Recording, found: NonFiniteOrigin, operation: Operation | None) -> str:
    if operation is not None:
        return f"{operation.name}, called with finite values,"
    if not found.is_between:
        return "Its input is finite: the operation"
    parent = recording.calls[found.depth].parent
    return (
        f"An operation before it, in the forward of {named(recording.calls[parent])},"
        if parent >= 0
        else "An operation"
    )


def _places(recording: Recording, flow: Dataflow, found: NonFiniteOrigin) -> tuple[str, ...]:
    """The caller whose forward does it, the call before the operation, and the call after it."""
    call = recording.calls[found.depth]
    siblings = recording.children(call.parent)
    before = [depth for depth in siblings if flow.next_siblings[depth] == found.depth]
    caller = [call.parent] if call.parent >= 0 else []
    return tuple(recording.calls[depth].module for depth in (*caller, *before, found.depth))


def _backward(recording: Recording) -> _Origin | None:
    found = backward_origin(recording)
    if found is None:
        return _between_functions(recording)
    operation = backward_culprit(recording)
    where = ""
    if found.is_between and _is_output(recording, found.depth):
        where = "The derivative of the loss is not finite at the model's output. "
    elif found.is_between and operation is None:
        where = "It is made by an operation behind that module, outside of any. "
    return _Origin(
        (recording.calls[found.depth].module if found.depth >= 0 else found.parameter.rpartition(".")[0],),
        found.stats,
        _gradient_in_words(recording, found),
        "in the backward pass",
        f"{where}{_by(operation)}{_BACKWARD_CAUSE}",
        _BACKWARD_REMEDIES,
        operation,
    )


def _between_functions(recording: Recording) -> _Origin | None:
    """A gradient between two operations of no module, which the second one masks."""
    operation = backward_culprit(recording)
    if operation is None:
        return None
    module = recording.calls[operation.depth].module if operation.depth >= 0 else ""
    return _Origin(
        (module,),
        None,
        f"The gradient that {operation.name} sends on",
        "in the backward pass",
        f"{_by(operation)}{_BACKWARD_CAUSE}",
        _BACKWARD_REMEDIES,
        operation,
    )


def _by(operation: Operation | None) -> str:
    return f"The derivative of {operation.name} makes it. " if operation is not None else ""


def _gradient_in_words(recording: Recording, found: NonFiniteOrigin) -> str:
    if found.parameter:
        return f"The gradient of the parameter '{found.parameter}'"
    call = named(recording.calls[found.depth])
    if found.is_between:
        return f"The gradient that arrives at the output of {call}"
    return f"The gradient that {call} sends to its input"


def _is_output(recording: Recording, depth: int) -> bool:
    returned = {signal.tensor for signal in recording.select(SignalKind.ACTIVATION, depth=depth)}
    return any(
        signal.tensor in returned
        for top in recording.children(-1)
        for signal in recording.select(SignalKind.ACTIVATION, depth=top)
    )


def _loss(recording: Recording) -> _Origin | None:
    loss = recording.context.loss
    if loss is None or math.isfinite(loss):
        return None
    operation = loss_culprit(recording)
    maker = "the loss" if operation is None else f"{operation.name} in the loss"
    return _Origin(
        ("",),
        None,
        "The loss",
        "in the forward pass",
        f"The model's output is finite: {maker} leaves its domain (log of 0, division by a count of 0) or the targets hold it.",
        (
            "Use a loss that takes raw outputs (nn.BCEWithLogitsLoss, nn.CrossEntropyLoss) instead of a log of its own.",
            "Check the targets with torch.isfinite, and that not all of them are ignored.",
        ),
        operation,
    )
