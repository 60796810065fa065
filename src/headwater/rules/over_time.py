"""What HW101 and HW102 say about the time steps of recurrent modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from headwater.analysis import TimeSteps
from headwater.findings import Finding, Severity
from headwater.rules.wording import counted, distinct

_FORGET_BIAS = (
    "Start with an open forget gate: a bias of 1 to 2 (Jozefowicz et al. 2015); PyTorch adds bias_ih and bias_hh, whose second "
    "quarter is the forget gate's."
)
_UPDATE_BIAS = "Start with a gate that keeps: a bias of 1 to 2 for the update gate, the second third of PyTorch's bias_ih and bias_hh."
_OPEN_GATES = "Start with gates that keep: add 1 to 2 to the bias of the gate that multiplies the old state (Jozefowicz et al. 2015)."
_ORTHOGONAL = (
    "Initialise the recurrent weights orthogonally (nn.init.orthogonal_; Saxe et al. 2013, arXiv 1312.6120), or as the "
    "identity with ReLU (Le et al. 2015, arXiv 1504.00941)."
)
_GATED = "Use a gated cell: nn.LSTM with a forget-gate bias of 1 to 2, or nn.GRU."
_READ_MORE = "Let the loss reach early steps directly: attention or a mean over all outputs, or a loss at every step."
_SHORTER = "If only the latest steps matter, cut the sequence there: the earlier ones cost time and teach nothing."
_CLIP = "Clip the gradient norm (torch.nn.utils.clip_grad_norm_; Pascanu et al. 2013, arXiv 1211.5063)."
_SMALLER = (
    "Initialise the recurrent weights orthogonally with a gain of 1 (nn.init.orthogonal_), or scale them until their largest "
    "singular value is 1."
)
_TRUNCATE = "Truncate: detach the state every so many steps."


def vanishing_finding(
    code: str, name: str, over_time: Sequence[TimeSteps], bounds_decades: tuple[float, float, float]
) -> list[Finding]:
    """One finding about the modules that lose the gradient over time, the worst first; none where none does.

    Args:
        code: the rule's.
        name: the rule's.
        over_time: all recurrent modules.
        bounds_decades: lost, for INFO; for an ERROR, or a WARNING where gates can still be learnt; for an ERROR there too.
    """
    info, error, gated_error = bounds_decades

    def severity_of(steps: TimeSteps) -> Severity | None:
        if steps.lost_decades >= (gated_error if steps.is_gated else error):
            return Severity.ERROR
        if steps.lost_decades >= error:
            return Severity.WARNING
        return Severity.INFO if steps.lost_decades >= info else None

    found = _severe(over_time, lambda steps: steps.lost_decades, severity_of)
    if not found:
        return []
    worst, severity = found[0]
    message = f"The gradient loses {worst.lost_decades:.1f} decades over {worst}{_per_step(worst)}."
    evidence = {"lost_decades": worst.lost_decades, **_evidence(worst, found)}
    return [
        Finding(
            code=code,
            name=name,
            severity=severity,
            modules=distinct([steps.module for steps, _ in found]),
            cause=_why_it_vanishes(worst),
            message=message,
            evidence=evidence,
            remedies=_against_vanishing(worst),
        )
    ]


def exploding_finding(
    code: str, name: str, over_time: Sequence[TimeSteps], bounds_decades: tuple[float, float]
) -> list[Finding]:
    """One finding about the modules that multiply the gradient over time, the worst first; none where none does.

    Args:
        code: the rule's.
        name: the rule's.
        over_time: all recurrent modules.
        bounds_decades: gained, for WARNING and ERROR.
    """
    warning, error = bounds_decades

    def severity_of(steps: TimeSteps) -> Severity | None:
        if steps.grown_decades >= error:
            return Severity.ERROR
        return Severity.WARNING if steps.grown_decades >= warning else None

    found = _severe(over_time, lambda steps: steps.grown_decades, severity_of)
    if not found:
        return []
    worst, severity = found[0]
    return [
        Finding(
            code=code,
            name=name,
            severity=severity,
            modules=distinct([steps.module for steps, _ in found]),
            cause=(
                "Each step back in time multiplies the gradient by the same recurrent weights, whose largest singular values are "
                "above one; nothing in the cell holds against it."
            ),
            message=f"The gradient grows by {worst.grown_decades:.1f} decades over {worst}{_per_step(worst)}.",
            evidence={"grown_decades": worst.grown_decades, **_evidence(worst, found)},
            remedies=(_SMALLER, _CLIP, _GATED, _TRUNCATE) if not worst.is_gated else (_SMALLER, _CLIP, _TRUNCATE),
        )
    ]


def _severe(
    over_time: Sequence[TimeSteps],
    size: Callable[[TimeSteps], float],
    severity_of: Callable[[TimeSteps], Severity | None],
) -> list[tuple[TimeSteps, Severity]]:
    """The modules above a bound with what that makes of them, the most severe first, then the largest."""
    found = [(steps, severity) for steps in over_time if (severity := severity_of(steps)) is not None]
    return sorted(found, key=lambda pair: (-pair[1], -size(pair[0]), pair[0].depth))


def _per_step(steps: TimeSteps) -> str:
    if not math.isfinite(steps.decades_per_step):
        return ""
    return f": a factor of {steps.factor_per_step:.3g} per step"


def _evidence(worst: TimeSteps, found: Sequence[tuple[TimeSteps, Severity]]) -> dict[str, float | int | str]:
    return {
        "axis": "time",
        "num_steps": len(worst.norms),
        "decades_per_step": worst.decades_per_step,
        "factor_per_step": worst.factor_per_step,
        "first_step_gradient_norm": worst.norms[0],
        "last_step_gradient_norm": worst.norms[-1],
        "num_recurrent_modules": len(found),
    }


def _why_it_vanishes(steps: TimeSteps) -> str:
    where = f"The loss reads few of the {counted(len(steps.norms), 'time step')}, and the others are reached only step by step"
    if "LSTM" in steps.module_type:
        return (
            f"{where}: each one multiplies the cell's gradient by its forget gate, 0.5 where its bias starts at zero."
        )
    if "GRU" in steps.module_type:
        return f"{where}: each one multiplies the gradient by the update gate, 0.5 where its bias starts at zero."
    if steps.is_gated:
        return f"{where}: each one multiplies the gradient by the gate on the old state, 0.5 where its bias starts at zero."
    return (
        f"{where}: each one multiplies the gradient by the recurrent weights and the activation's derivative, and PyTorch's "
        "default weights, U(±1/sqrt(hidden_size)), shrink it by 0.58 or more."
    )


def _against_vanishing(steps: TimeSteps) -> tuple[str, ...]:
    if "LSTM" in steps.module_type:
        return (_FORGET_BIAS, _READ_MORE, _SHORTER)
    if "GRU" in steps.module_type:
        return (_UPDATE_BIAS, _READ_MORE, _SHORTER)
    if steps.is_gated:
        return (_OPEN_GATES, _READ_MORE, _SHORTER)
    return (_ORTHOGONAL, _GATED, _READ_MORE, _SHORTER)
