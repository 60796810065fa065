"""HW103: a gradient that is exactly zero although the loss has a slope, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from headwater.analysis.dataflow import dataflow
from headwater.analysis.gain import cotangent
from headwater.analysis.gradient_path import trainable_layers
from headwater.analysis.time_loops import time_loops
from headwater.analysis.zero_deadlocks import deadlocks
from headwater.analysis.zero_lines import lines_turning_zero
from headwater.analysis.zero_origins import ZeroOrigin, zero_origins
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording, SignalKind
from headwater.recording.recording import KINDS
from headwater.rules.hw103_causes import SMALLEST_NUMBER, Explainer
from headwater.rules.hw103_known_causes import Cause, Kind, deadlocked
from headwater.rules.hw103_ways import Ways
from headwater.rules.wording import distinct, named

_GRADIENTS = (SignalKind.ACTIVATION_GRADIENT, SignalKind.INPUT_GRADIENT)
_LOST = 2.0**-25  # half an ulp of float32: HW101's bound over time
_HALF = ("float16", "bfloat16")
_SCALE = "Multiply the loss before backward() (torch.amp.GradScaler does), or compute in float32 or bfloat16 what the loss reads."


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroGradient:
    """HW103: an exactly zero activation gradient although the loss has a slope at the output.

    Where a parameter that is all zero causes it and gets a gradient itself, the zero should be gone after one step; where a
    step or two were tried on this batch, it is known whether it is. Inside a branch (ReZero, zero-gamma, LoRA's B,
    adaLN-Zero), beside a way that the data take (a spatial transformer's localisation), in the last layer of a network with
    such branches (Fixup) and behind layers that are frozen anyway a zero that ends is a design, and only worth knowing;
    where all of a plain network waits for it, it is a warning. No threshold: zero is zero.
    """

    code: ClassVar[str] = "HW103"
    name: ClassVar[str] = "zero-gradient"

    def check(self, recording: Recording) -> Verdict:
        """One finding for each cause, naming the calls it holds for, or one for a loss without a slope."""
        reference = cotangent(recording)
        if reference is None:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if not _is_finite(recording):
            return []  # HW104's: what comes of a NaN says nothing about the network
        if reference.is_zero:
            return [self._no_slope(recording)]
        if not _has_zeros(recording) and not deadlocks(recording):
            return []
        flow = dataflow(recording)
        explainer, ways = Explainer(recording, flow), Ways(recording, flow)
        groups: dict[tuple[Severity, Cause, bool, bool], list[ZeroOrigin]] = {}
        fading = _calls_that_fade_over_time(recording)
        for origin in zero_origins(recording, flow):
            if origin.depth in fading:
                continue
            cause = explainer.cause(origin)
            around = ways.lead_around(origin, heals=cause.kind in (Kind.HEALS, Kind.HEALED))
            is_design = around or ways.blocks_nothing(origin.depth, explainer.zero_weights)
            key = (_severity(cause.kind, is_design=is_design), cause, around, origin.is_after)
            groups.setdefault(key, []).append(origin)
        for cause, around, origin in _other_deadlocks(recording, groups.values()):
            groups.setdefault((Severity.ERROR, cause, around, False), []).append(origin)
        return [self._finding(recording, *key, origins) for key, origins in groups.items()]

    def _no_slope(self, recording: Recording) -> Finding:
        severity, cause = Severity.ERROR, "It is at a plateau or clipped, or the output does not matter to it."
        output = next(iter(recording.select(SignalKind.ACTIVATION, module="")), None)
        if recording.context.loss == 0.0:
            severity, cause = Severity.INFO, "The loss is exactly zero: there is nothing left to learn from this batch."
            # A margin that is met, or an exact fit, is no reason to wonder; an untrained single unit is.
            if output is not None and output.shape[-1:] == (1,) and 0.0 < output.stats.rms < 1.0:
                severity = Severity.ERROR
                cause = "The loss is exactly zero for a single output: a softmax over one unit is 1 whatever its input."
        elif output is not None and output.dtype in _HALF:
            smallest = f"{output.dtype}, {SMALLEST_NUMBER[output.dtype]}"
            cause = (
                f"Its slope is smaller than the smallest number of {smallest}, which the output is in, and is rounded to zero; or it "
                "is at a plateau or clipped."
            )
        scale = () if output is None or output.dtype not in _HALF else (_SCALE,)
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=("",),
            cause=cause,
            message="The loss has no slope at the model's output: every gradient is exactly zero.",
            evidence={"cotangent_norm": 0.0},
            remedies=(
                *scale,
                "Check the loss on this batch: a clamp, a margin that is met, a mask that drops every sample, labels all ignored.",
                "Check that the output can be other than it is: for one unit use nn.BCEWithLogitsLoss, not a softmax.",
            ),
        )

    def _finding(
        self,
        recording: Recording,
        severity: Severity,
        cause: Cause,
        around: bool,
        is_after: bool,
        origins: list[ZeroOrigin],
    ) -> Finding:
        calls = [recording.calls[origin.depth] for origin in origins]
        more = f" and at {len(calls) - 1} more" if len(calls) > 1 else ""
        reached = ", inside a branch: other layers get theirs past it" if around else ""
        if not around and any(layer.call.depth < calls[0].depth for layer in trainable_layers(recording)):
            reached = ", and no layer before it gets any"
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([call.module for call in calls]),
            cause=cause.text,
            message=(
                f"The gradient becomes exactly zero {'behind' if is_after else 'at'} {named(calls[0])}{more}{reached}."
            ),
            evidence={"num_calls": len(calls), "num_more_calls": len(calls) - 1},
            remedies=cause.remedies,
            lines=lines_turning_zero(recording, origins),
        )


def _is_finite(recording: Recording) -> bool:
    loss, table = recording.context.loss, recording.signal_table
    is_made = table["kind"] != KINDS.index(SignalKind.INPUT)
    has_gaps = np.any(table["nan_count"][is_made])
    return not has_gaps and (loss is None or math.isfinite(loss))


def _has_zeros(recording: Recording) -> bool:
    """Whether any gradient at or in a call is exactly zero: of most recordings none is, and nothing is left to search."""
    table = recording.signal_table
    is_gradient = np.isin(table["kind"], [KINDS.index(kind) for kind in _GRADIENTS])
    return bool(np.any(is_gradient & (table["numel"] > 0) & (table["zero_count"] == table["numel"])))


def _other_deadlocks(
    recording: Recording, known: Iterable[Sequence[ZeroOrigin]]
) -> Iterator[tuple[Cause, bool, ZeroOrigin]]:
    """Zeros that wait for each other where no call shows it: parameters that functional code reads."""
    places = {recording.calls[origin.depth].module for origins in known for origin in origins}
    for deadlock in deadlocks(recording):
        depth = recording.operations[deadlock.operation].depth
        owners = {name.rpartition(".")[0] for name in deadlock.parameters}
        if depth >= 0 and places.isdisjoint({*owners, recording.calls[depth].module}):
            yield deadlocked(deadlocks(recording)), deadlock.is_passed, ZeroOrigin(depth, is_after=False)


def _calls_that_fade_over_time(recording: Recording) -> set[int]:
    """Depths of the calls at time steps that are out of reach: after the last one that the loss reads, or behind a long decay.

    The first is by design, the second HW101's to say.
    """
    found: set[int] = set()
    for loop in time_loops(recording):
        gradients = [recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth) for call in loop.calls]
        reached = [c.depth for c, g in zip(loop.calls, gradients, strict=True) if g is not None and not g.is_zero]
        norms = [g.norm for g in gradients if g is not None and not g.is_zero]
        if not reached:
            continue
        # A decay that has come so far ends in zero by rounding: within the earliest call that gets something, or before it.
        begin = reached[1] if len(reached) > 1 and norms[0] < _LOST * norms[-1] else -1
        found.update(
            call.depth
            for call in recording.calls
            if call.module in loop.per_step and (call.depth < begin or call.depth > reached[-1])
        )
    return found


def _severity(kind: Kind, *, is_design: bool) -> Severity:
    if kind is Kind.DESIGN or (is_design and kind is not Kind.FAULT):
        return Severity.INFO
    return Severity.WARNING if kind in (Kind.HEALS, Kind.HEALED) else Severity.ERROR
