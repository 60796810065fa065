"""HW202: squashing activations whose inputs are so large that their derivative is gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gain import backward_gain
from headwater.analysis.gradient_path import leaf_calls
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind, TensorStats
from headwater.rules.wording import distinct, named

# The mean derivative, relative to the largest, is a moment of the output:
# tanh' = 1 - y², sigmoid' = y - y² (at most 1/4), softsign' = (1 - |y|)². ReLU6 is judged at its upper plateau alone, where
# y² = 36: units that are off are HW201's.
_FROM_OUTPUT: Mapping[str, Callable[[TensorStats], float]] = {
    "Tanh": lambda y: 1.0 - y.rms**2,
    "Sigmoid": lambda y: 4.0 * (y.mean - y.rms**2),
    "Softsign": lambda y: 1.0 - 2.0 * y.mean_abs + y.rms**2,
    "ReLU6": lambda y: 1.0 - y.rms**2 / 36.0,
}
# The slope of these is one number or zero: the square of the gain over the slope is the share of the gradient's energy
# that passes.
_SLOPE: Mapping[str, float] = {"Hardtanh": 1.0, "Hardsigmoid": 1.0 / 6.0}


@dataclass(frozen=True, slots=True)
class _Saturated:
    """One call, and its mean derivative as a part of the largest."""

    call: Call
    fraction: float
    input_rms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturatedActivation:
    """HW202: the derivative of a squashing activation, averaged over the batch, is a small part of its maximum.

    Judged from the output's moments (for nn.Hardtanh and nn.Hardsigmoid from the gradient that passes), whatever the loss
    (Glorot & Bengio 2010 watch the same plateaus). The model's last activation is exempt from warnings: a confident
    classifier sits on its plateau by right.

    Args:
        warning_fraction: of the largest derivative; a tanh gets there with pre-activations of deviation 8.
        error_fraction: of the largest derivative; deviation 80.
    """

    code: ClassVar[str] = "HW202"
    name: ClassVar[str] = "saturated-activation"

    warning_fraction: float = 0.1
    error_fraction: float = 0.01

    def check(self, recording: Recording) -> Verdict:
        """One finding for each severity, naming the calls, the most saturated first."""
        leaves = leaf_calls(recording)
        calls = [call for call in leaves if call.module_type in _FROM_OUTPUT or call.module_type in _SLOPE]
        if not calls:
            return NotApplicable("no squashing activation module (nn.Sigmoid, nn.Tanh, nn.Softsign...) was called")
        outputs = {
            signal.tensor
            for depth in recording.children(-1)
            for signal in recording.select(SignalKind.ACTIVATION, depth=depth)
        }
        groups: dict[Severity, list[_Saturated]] = {}
        for call in calls:
            found = _saturation(recording, call)
            if not found.fraction < self.warning_fraction:
                continue
            severity = Severity.ERROR if found.fraction < self.error_fraction else Severity.WARNING
            if call.depth == leaves[-1].depth or outputs.intersection(_outputs(recording, call)):
                severity = Severity.INFO
            groups.setdefault(severity, []).append(found)
        return [self._finding(severity, groups[severity]) for severity in sorted(groups, reverse=True)]

    def _finding(self, severity: Severity, found: Sequence[_Saturated]) -> Finding:
        ordered = sorted(found, key=lambda saturated: saturated.fraction)
        worst, num_more = ordered[0], len(ordered) - 1
        percent = 100 * worst.fraction
        more = f" At {num_more} more calls it is small, too." if num_more else ""
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([saturated.call.module for saturated in ordered]),
            cause=f"Its inputs are too large: RMS {worst.input_rms:.3g}, where its slope ends at about 3.",
            message=f"The derivative of {named(worst.call)} is on average {percent:.2g} % of its largest.{more}",
            evidence={
                "mean_derivative_percent": percent,
                "input_rms": worst.input_rms,
                "num_calls": len(ordered),
                "num_more_calls": num_more,
            },
            remedies=(
                "Scale the data to zero mean and unit deviation.",
                "Initialise the layer before it smaller (Xavier), or normalise before the activation (nn.LayerNorm).",
                "Use an activation without plateaus on both sides: ReLU, GELU, SiLU.",
            ),
        )


def _saturation(recording: Recording, call: Call) -> _Saturated:
    source = recording.signal(SignalKind.INPUT, call.depth)
    return _Saturated(call, _mean_relative_derivative(recording, call), math.nan if source is None else source.rms)


def _mean_relative_derivative(recording: Recording, call: Call) -> float:
    """Between 0 and 1; nan where it is unknown."""
    if call.module_type in _SLOPE:
        return min((backward_gain(recording, call.depth) / _SLOPE[call.module_type]) ** 2, 1.0)
    output = recording.signal(SignalKind.ACTIVATION, call.depth)
    if output is None or not output.finite_count:
        return math.nan
    # Rounding can take the difference of two moments below zero.
    return max(_FROM_OUTPUT[call.module_type](output), 0.0)


def _outputs(recording: Recording, call: Call) -> set[int]:
    return {signal.tensor for signal in recording.select(SignalKind.ACTIVATION, depth=call.depth)}
