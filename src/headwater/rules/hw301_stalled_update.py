"""HW301: the optimiser's next step does not move the weights of a layer, although they have a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from headwater.analysis.layer_steps import (
    LayerStep,
    cancellation_decades,
    layer_steps,
    loss_slope,
    scaling_down_decades,
)
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording
from headwater.rules.wording import NO_OPTIMIZER, distinct

# Bits of the fraction: half of the distance between neighbouring numbers is at least 2**-(bits + 2) of their size.
_FRACTION_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}


class _Reason(StrEnum):
    """What keeps the weights where they are."""

    ROUNDING = "rounding"
    RATE = "rounding of a step that is as long as the learning rate, whatever the gradient"
    EPSILON = "epsilon"
    UNKNOWN = "unknown"


class _Excuse(StrEnum):
    """Why a stalled layer may be as it should be: each is the beginning of a cause."""

    NONE = ""
    CONVERGED = (
        "The loss hardly depends on the output any more: the model has converged, or the loss is scaled down too far. "
    )
    CANCELLING = "The gradients of the samples cancel in it, as they do in a model that has converged. "
    BRANCH = "It lies in a branch that is scaled down (LayerScale): its gradient grows as soon as the scale has been trained. "
    SCHEDULE = "The learning rate is still below the one that its schedule starts from. "


_INITIALISE = (
    "Let more gradient arrive at these layers: initialisation for the activation, shortcuts, normalisation (see HW101)."
)
_REMEDIES = {
    _Reason.ROUNDING: (
        _INITIALISE,
        "Raise the learning rate of these layers, or use AdamW, whose step does not depend on the size of the gradient.",
    ),
    _Reason.RATE: ("Raise the learning rate of these layers: the size of the gradient does not matter here.",),
    _Reason.EPSILON: (_INITIALISE, "Multiply the loss by a constant, or lower eps (1e-12 in float32)."),
    _Reason.UNKNOWN: (_INITIALISE, "Raise the learning rate of these layers, and look at the optimiser's eps."),
}
_MASTER_WEIGHTS = (
    "Keep the weights in float32 and compute in 16 bits (torch.autocast), or round the step at random: in 16 bits a small step "
    "is no step."
)


@dataclass(frozen=True, slots=True)
class _Stalled:
    step: LayerStep
    share: float
    reason: _Reason
    excuse: _Excuse


@dataclass(frozen=True, slots=True, kw_only=True)
class StalledUpdate:
    """HW301: a matrix of which most weights with a gradient stay where they are in the optimiser's next step.

    For SGD, Adam and AdamW a weight counts if the gradient makes no difference to its value after rounding, even at the
    highest rate of its schedule and with momentum built up, or if eps shrinks its step; weight decay does not hide it. For other
    optimisers it counts if it does not change. A weight of zero never stalls. Only worth knowing is what heals by itself or is
    no loss: a model that has converged, a branch that is scaled down, a rate that is still being raised.

    Args:
        warning_share: of the weights with a gradient; more than half: the median weight stalls.
        error_share: of the same; all but one in a hundred: the layer is not trained.
        epsilon_decades: by which eps shrinks a step for it to count: sqrt(v) / (sqrt(v) + eps), Kingma & Ba 2014,
            arXiv 1412.6980: a hundredth of the learning rate that was chosen.
        converged_slope: units of the loss that it changes by if every output moves by one; a thousandth of a nat.
        cancelling_decades: that the weight gradient is smaller than that of as many unrelated samples.
        branch_decades: that less gradient arrives inside of a block than at its input: as many as eps must take.
    """

    code: ClassVar[str] = "HW301"
    name: ClassVar[str] = "stalled-update"

    warning_share: float = 0.5
    error_share: float = 0.99
    epsilon_decades: int = 2
    converged_slope: float = 1e-3
    cancelling_decades: float = 2.0
    branch_decades: float = 2.0

    def check(self, recording: Recording) -> Verdict:
        """One finding for each reason and each excuse, naming all layers that it holds for."""
        steps = layer_steps(recording)
        if not steps:
            return NotApplicable(_why_there_is_no_step(recording))
        groups: dict[tuple[_Excuse, _Reason], list[_Stalled]] = {}
        for stalled in self._stalled(recording, steps):
            groups.setdefault((stalled.excuse, stalled.reason), []).append(stalled)
        return [self._finding(recording, group, len(steps)) for group in groups.values()]

    def _stalled(self, recording: Recording, steps: Sequence[LayerStep]) -> list[_Stalled]:
        slope, scaled_down = loss_slope(recording), scaling_down_decades(recording)
        found: list[_Stalled] = []
        for step in steps:
            shrunk, rounded = step.share_shrunk(self.epsilon_decades), step.share_rounded(self.epsilon_decades)
            if not shrunk + rounded >= self.warning_share:
                continue
            reason = _reason(step, shrunk, rounded)
            branch = scaled_down.get(step.parameter.module, 0.0) if reason is not _Reason.RATE else 0.0
            excuse = self._excuse(recording, step, slope, branch)
            found.append(_Stalled(step, shrunk + rounded, reason, excuse))
        return found

    def _excuse(self, recording: Recording, step: LayerStep, slope: float, branch_decades: float) -> _Excuse:
        if slope < self.converged_slope:
            return _Excuse.CONVERGED
        if branch_decades >= self.branch_decades:
            return _Excuse.BRANCH
        if cancellation_decades(recording, step) >= self.cancelling_decades:
            return _Excuse.CANCELLING
        return _Excuse.SCHEDULE if not step.is_exact and step.rate < step.full_rate else _Excuse.NONE

    def _finding(self, recording: Recording, group: Sequence[_Stalled], num_layers: int) -> Finding:
        worst = max(group, key=lambda stalled: stalled.share >= self.error_share)  # the first of them
        step, percent = worst.step, 100.0 * worst.share
        name = f"'{step.parameter.module}' ({step.module_type})" if step.parameter.module else "the model"
        more = f" So it is in {len(group)} of {num_layers} layers." if len(group) > 1 else ""
        optimizer = recording.context.optimizer or "the optimiser"
        return Finding(
            code=self.code,
            name=self.name,
            severity=self._severity(worst),
            modules=distinct([worst.step.parameter.module, *(stalled.step.parameter.module for stalled in group)]),
            cause=worst.excuse + _cause(worst, optimizer, self.epsilon_decades),
            message=(
                f"{percent:.3g} % of the weights of {name} that have a gradient are not trained by the next step of "
                f"{optimizer}: {_what(worst.reason, self.epsilon_decades)}.{more}"
            ),
            evidence={
                "percent_stalled": percent,
                "percent_rounded": 100.0 * step.share_rounded(self.epsilon_decades),
                "percent_shrunk_by_epsilon": 100.0 * step.share_shrunk(self.epsilon_decades),
                "percent_unchanged": 100.0 * sum(step.counts["num_unchanged"]) / step.num_with_gradient,
                "shrunk_by_factor": 10**self.epsilon_decades,
                "num_with_gradient": int(step.num_with_gradient),
                "num_stalled_layers": len(group),
                "num_layers": num_layers,
                "learning_rate": step.rate,
                "full_learning_rate": step.full_rate,
                "epsilon": step.epsilon,
                "loss_slope": loss_slope(recording),
            },
            remedies=_remedies(worst),
        )

    def _severity(self, worst: _Stalled) -> Severity:
        if worst.excuse is not _Excuse.NONE:
            return Severity.INFO
        return Severity.ERROR if worst.share >= self.error_share else Severity.WARNING


def _reason(step: LayerStep, shrunk: float, rounded: float) -> _Reason:
    if not step.is_exact:
        return _Reason.UNKNOWN
    if shrunk >= rounded:
        return _Reason.EPSILON
    return _Reason.ROUNDING if math.isnan(step.epsilon) else _Reason.RATE


def _why_there_is_no_step(recording: Recording) -> str:
    if not recording.context.optimizer:
        return NO_OPTIMIZER
    if recording.context.cotangent != "loss":
        return "without a loss there is no step: pass loss= to diagnose() beside optimizer="
    return f"no matrix takes part in the next step of {recording.context.optimizer}, or the step could not be observed"


def _what(reason: _Reason, epsilon_decades: int) -> str:
    if reason is _Reason.EPSILON:
        return f"eps shrinks their step by a factor of {10**epsilon_decades} or more"
    return "they stay where they are" if reason is _Reason.UNKNOWN else "their step is lost to rounding"


def _cause(worst: _Stalled, optimizer: str, epsilon_decades: int) -> str:
    step, dtype = worst.step, worst.step.parameter.dtype
    if worst.reason is _Reason.EPSILON:
        return (
            f"{optimizer} divides by sqrt(v) + eps. Here sqrt(v), the size of the gradient, is less than a "
            f"{10**epsilon_decades}th of eps = {step.epsilon:.3g}."
        )
    if worst.reason is _Reason.UNKNOWN:
        return f"The step is smaller than what {dtype} can tell apart at the size of the weights."
    bits = _FRACTION_BITS.get(dtype)
    distance = f" (2**-{bits + 2} to 2**-{bits + 1} of the weight)" if bits is not None else ""
    length = f"The learning rate {step.rate:.3g} times the gradient"
    if worst.reason is _Reason.RATE:
        length = f"{optimizer}'s step is at most about as long as its learning rate {step.rate:.3g}, which"
    return f"{length} is less than half of the distance between two neighbouring numbers of {dtype}{distance}."


def _remedies(worst: _Stalled) -> tuple[str, ...]:
    remedies = _REMEDIES[worst.reason]
    if worst.reason is not _Reason.EPSILON and worst.step.parameter.dtype in ("float16", "bfloat16"):
        return (_MASTER_WEIGHTS, *remedies)
    return remedies
