"""HW401: parameters that want a gradient and get none, one finding for each cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwater.findings import Finding, NotApplicable, Verdict
from headwater.recording import ParameterInfo, Recording, SignalKind
from headwater.rules.hw401_causes import Cuts
from headwater.rules.hw401_known_causes import Cut
from headwater.rules.wording import counted, distinct, listed

_GRADIENTS = (SignalKind.WEIGHT_GRADIENT, SignalKind.ACTIVATION_GRADIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachedParameter:
    """HW401: a parameter that requires a gradient received none although a backward pass ran.

    Frozen parameters are not asked for. Only worth knowing are what a library's own code leaves out for these inputs (a mask token, a
    pooler) while the part that it belongs to trains, the exit of the last block of a stack, and an expert that was not chosen (a
    numbered sibling of the same type ran). No threshold.
    """

    code: ClassVar[str] = "HW401"
    name: ClassVar[str] = "unreached-parameter"

    def check(self, recording: Recording) -> Verdict:
        """One finding for each cause, naming all modules it keeps the gradient from."""
        if recording.context.cotangent == "none" and not any(recording.select(kind) for kind in _GRADIENTS):
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        unreached = [p for p in recording.parameters if p.requires_grad and not p.received_gradient and p.initialized]
        if not unreached:
            return []
        cuts = Cuts(recording)
        groups: dict[Cut, list[ParameterInfo]] = {}
        for parameter in unreached:
            groups.setdefault(cuts.of(parameter), []).append(parameter)
        return [self._finding(cut, parameters) for cut, parameters in groups.items()]

    def _finding(self, cut: Cut, parameters: list[ParameterInfo]) -> Finding:
        names = [parameter.name for parameter in parameters]
        modules = distinct([parameter.module for parameter in parameters])
        in_modules = f" in {len(modules)} modules" if len(modules) > 1 else ""
        return Finding(
            code=self.code,
            name=self.name,
            severity=cut.severity,
            modules=distinct([*cut.culprits, *modules]),
            cause=cut.cause,
            message=(
                f"{counted(len(names), 'parameter')}{in_modules} {'gets' if len(names) == 1 else 'get'} no gradient: "
                f"{listed(names)}."
            ),
            evidence={
                "num_parameters": len(names),
                "num_modules": len(modules),
                "num_unnamed_parameters": max(len(names) - 3, 0),
                "first_parameter": names[0],
            },
            remedies=cut.remedies,
            lines=cut.lines,
        )
