"""HW202: sigmoids and tanhs whose inputs are so large that their derivative is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind, TensorStats

# The mean derivative, relative to the largest, is a moment of the output:
# tanh' = 1 - y², sigmoid' = y - y² (at most 1/4), softsign' = (1 - |y|)².
_MEAN_RELATIVE_DERIVATIVE: Mapping[str, Callable[[TensorStats], float]] = {
    "Tanh": lambda y: 1.0 - y.rms**2,
    "Sigmoid": lambda y: 4.0 * (y.mean - y.rms**2),
    "Softsign": lambda y: 1.0 - 2.0 * y.mean_abs + y.rms**2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturatedActivation:
    """HW202: the derivative of a squashing activation, averaged over the batch, is a small part of its maximum.

    Judged from the output's moments alone, so it needs no backward pass (Glorot & Bengio 2010 watch the same plateaus). The
    model's own output is exempt from warnings: a confident classifier sits on its plateau by right.

    Args:
        warning_fraction: of the largest derivative; a tanh gets there with pre-activations of deviation 8.
        error_fraction: of the largest derivative; deviation 80.
    """

    code: ClassVar[str] = "HW202"
    name: ClassVar[str] = "saturated-activation"

    warning_fraction: float = 0.1
    error_fraction: float = 0.01

    def check(self, recording: Recording) -> Verdict:
        """One finding for each saturated call."""
        calls = [call for call in recording.calls if call.module_type in _MEAN_RELATIVE_DERIVATIVE]
        if not calls:
            return NotApplicable("no squashing activation module (nn.Sigmoid, nn.Tanh, nn.Softsign) was called")
        outputs = {
            signal.tensor
            for depth in recording.children(-1)
            for signal in recording.select(SignalKind.ACTIVATION, depth=depth)
        }
        return [finding for call in calls for finding in self._findings(recording, call, outputs)]

    def _findings(self, recording: Recording, call: Call, outputs: set[int]) -> list[Finding]:
        signals = recording.select(SignalKind.ACTIVATION, depth=call.depth)
        if not signals or not signals[0].stats.finite_count:
            return []
        stats = signals[0].stats
        fraction = max(_MEAN_RELATIVE_DERIVATIVE[call.module_type](stats), 0.0)
        if fraction >= self.warning_fraction:
            return []
        severity = Severity.ERROR if fraction < self.error_fraction else Severity.WARNING
        if signals[0].tensor in outputs:
            severity = Severity.INFO
        source = recording.signal(SignalKind.INPUT, call.depth)
        input_rms = source.rms if source is not None else float("nan")
        return [
            Finding(
                code=self.code,
                name=self.name,
                severity=severity,
                modules=(call.module,),
                cause=f"Its inputs are too large: RMS {input_rms:.3g}, where its slope ends at about 3.",
                message=(
                    f"The derivative of '{call.module}' ({call.module_type}) is on average {100 * fraction:.2g} % of its largest."
                ),
                evidence={"mean_derivative_percent": 100 * fraction, "input_rms": input_rms},
                remedies=(
                    "Scale the data to zero mean and unit deviation.",
                    "Initialise the layer before it smaller (Xavier), or normalise before the activation (nn.LayerNorm).",
                    "Use an activation without plateaus on both sides: ReLU, GELU, SiLU.",
                ),
            )
        ]
