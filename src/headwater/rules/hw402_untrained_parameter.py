"""HW402: parameters that want a gradient and that no optimiser will ever change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import ParameterInfo, Recording
from headwater.rules.wording import NO_OPTIMIZER, counted, distinct, listed

_REGISTER = (
    "Register them: assign each to an attribute of the module, or keep them in an nn.ModuleList or nn.ModuleDict instead of "
    "a list or dict; then build the optimiser again."
)
_BUILD = (
    "Build the optimiser from model.parameters(), after the last change to the model (new layers, parametrisations, a copy, "
    "a wrapper)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UntrainedParameter:
    """HW402: a parameter, of the model or of its loss, that requires a gradient and is not in the optimiser; what is not registered.

    A frozen parameter (requires_grad=False) is not asked for, nor is a module outside of the model without such parameters, that
    ran under no_grad (a teacher), or whose parameters the optimiser holds. Parameters may be left to a second optimiser on
    purpose: that is a warning, and only where the optimiser holds none of the model's an error. No threshold.
    """

    code: ClassVar[str] = "HW402"
    name: ClassVar[str] = "untrained-parameter"

    def check(self, recording: Recording) -> Verdict:
        """At most one finding about the optimiser, and one for each module with what is not registered."""
        found = [*self._unregistered(recording), *self._loose(recording), *self._of_the_loss(recording)]
        held = {
            f"{one.module}.{one.item}" if one.module else one.item: bool(one.values.max())
            for one in recording.series("in_optimizer")
        }
        if not held:
            return found or NotApplicable(NO_OPTIMIZER)
        wanted = [parameter for parameter in recording.parameters if parameter.requires_grad and parameter.name in held]
        missing = [parameter for parameter in wanted if not held[parameter.name]]
        return [self._missing(recording, wanted, missing), *found] if missing else found

    def _missing(
        self, recording: Recording, wanted: Sequence[ParameterInfo], missing: Sequence[ParameterInfo]
    ) -> Finding:
        optimizer = recording.context.optimizer or "The optimiser"
        num_foreign = int(max((one.values.max() for one in recording.series("num_foreign_parameters")), default=0))
        is_all = len(missing) == len(wanted)
        num_elements, num_wanted = (sum(math.prod(p.shape) for p in group) for group in (missing, wanted))
        percent = 100.0 * num_elements / num_wanted if num_wanted else math.nan
        which = "none" if is_all else f"{len(wanted) - len(missing)}"
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR if is_all else Severity.WARNING,
            modules=distinct([parameter.module for parameter in missing]),
            cause=_cause(optimizer, num_foreign, is_all=is_all),
            message=(
                f"{optimizer} holds {which} of the {counted(len(wanted), 'parameter')} that want a gradient: "
                f"{listed([p.name for p in missing])} ({percent:.3g} % of the weights) will not be trained by it."
            ),
            evidence={
                "num_parameters": len(wanted),
                "num_missing": len(missing),
                "num_held": len(wanted) - len(missing),
                "percent_of_weights": percent,
                "num_unnamed_parameters": max(len(missing) - 3, 0),
                "num_foreign_parameters": num_foreign,
                "first_parameter": missing[0].name,
            },
            remedies=(
                _BUILD,
                "If a second optimiser trains them, nothing is wrong.",
                "If they shall stay as they are, freeze them: requires_grad_(False).",
            ),
        )

    def _unregistered(self, recording: Recording) -> list[Finding]:
        by_caller: dict[str, dict[str, int]] = {}
        for one in recording.series("num_unregistered_parameters"):
            by_caller.setdefault(one.module, {})[one.item] = int(one.values.max())
        return [self._unregistered_in(caller, weights) for caller, weights in by_caller.items()]

    def _of_the_loss(self, recording: Recording) -> list[Finding]:
        sizes = {one.item: int(one.values.max()) for one in recording.series("num_untrained_elements_of_the_loss")}
        if not sizes:
            return []
        optimizer = recording.context.optimizer or "The optimiser"
        return [
            Finding(
                code=self.code,
                name=self.name,
                severity=Severity.WARNING,
                modules=("",),
                cause="The loss has parameters of its own, and model.parameters() knows nothing of them.",
                message=(
                    f"{optimizer} does not hold {counted(len(sizes), 'parameter')} of the loss: {listed(list(sizes))} "
                    f"({counted(sum(sizes.values()), 'number')}) will not be trained by it."
                ),
                evidence={
                    "num_parameters": len(sizes),
                    "num_elements": sum(sizes.values()),
                    "num_unnamed_parameters": max(len(sizes) - 3, 0),
                },
                remedies=(
                    "Give both to the optimiser: [*model.parameters(), *loss.parameters()].",
                    "If a second optimiser trains them, nothing is wrong; if they shall stay, requires_grad_(False).",
                ),
            )
        ]

    def _loose(self, recording: Recording) -> list[Finding]:
        by_module: dict[str, dict[str, int]] = {}
        for one in recording.series("num_unregistered_elements"):
            by_module.setdefault(one.module, {})[one.item] = int(one.values.max())
        return [self._loose_in(module, sizes) for module, sizes in by_module.items()]

    def _loose_in(self, module: str, sizes: Mapping[str, int]) -> Finding:
        total = sum(sizes.values())
        names = [f"{module}.{attribute}" if module else attribute for attribute in sizes]
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.WARNING,
            modules=(module,),
            cause=(
                "They are plain tensors with requires_grad=True, computed from a parameter (nn.Parameter(...) * 0.1, .to(device)), or "
                "kept in a list or dict: parameters() knows only what is an nn.Parameter in an attribute. state_dict(), to() and every "
                "optimiser built from it leave them out."
            ),
            message=(
                f"{listed(names)} {'gets' if len(names) == 1 else 'get'} a gradient and no optimiser will be given "
                f"{'it' if len(names) == 1 else 'them'}: {counted(total, 'number')} that will not be trained."
            ),
            evidence={
                "num_elements": total,
                "num_tensors": len(sizes),
                "num_unnamed_tensors": max(len(sizes) - 3, 0),
            },
            remedies=(
                "Make it a parameter: self.w = nn.Parameter(torch.randn(...)); several in an nn.ParameterList or nn.ParameterDict.",
                "If it shall not be trained: requires_grad_(False), and register_buffer() so that it moves with the model.",
            ),
        )

    def _unregistered_in(self, caller: str, weights: Mapping[str, int]) -> Finding:
        total = sum(weights.values())
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.WARNING,
            modules=(caller,),
            cause=(
                "They are kept where PyTorch does not look: in a plain list or dict, or made anew in forward(). "
                "parameters() leaves their weights out, and so do every optimiser built from it, state_dict() and to()."
            ),
            message=(
                f"Modules that are not registered run inside of {listed([caller])}: {listed(list(weights))}. "
                f"Their {counted(total, 'weight')} will not be trained."
            ),
            evidence={
                "num_weights": total,
                "num_types": len(weights),
                "num_unnamed_types": max(len(weights) - 3, 0),
                **{f"num_weights_{kind}": count for kind, count in weights.items()},
            },
            remedies=(_REGISTER, "If they shall not be trained, freeze them: requires_grad_(False)."),
        )


def _cause(optimizer: str, num_foreign: int, *, is_all: bool) -> str:
    if num_foreign:
        return (
            f"{optimizer} holds {counted(num_foreign, 'parameter')} that are not the model's: it was built for another model, or "
            "before parameters of this one were replaced."
        )
    if is_all:
        return f"{optimizer} was built for other parameters than the model's."
    return f"{optimizer} was given a part of the parameters, or they were added to the model after it was built."
