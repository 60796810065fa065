"""HW401: parameters that want a gradient and get none, and what cuts them off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, ParameterInfo, Recording, SignalKind


@dataclass(frozen=True, slots=True)
class _Cut:
    """Why parameters of some modules are not reached."""

    severity: Severity
    culprit: str | None
    cause: str
    remedies: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachedParameter:
    """HW401: a parameter that requires a gradient received none although a backward pass ran.

    Frozen parameters are not asked for. An expert that was not chosen (a sibling of the same type in the same container
    ran) is only worth knowing. No threshold.
    """

    code: ClassVar[str] = "HW401"
    name: ClassVar[str] = "unreached-parameter"

    def check(self, recording: Recording) -> Verdict:
        """One finding for each cause, naming all parameters it keeps the gradient from."""
        if recording.context.cotangent == "none":
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        unreached = [p for p in recording.parameters if p.requires_grad and not p.received_gradient and p.initialized]
        groups: dict[_Cut, list[ParameterInfo]] = {}
        cuts = _Cuts(recording)
        for parameter in unreached:
            groups.setdefault(cuts.of(parameter), []).append(parameter)
        return [self._finding(cut, parameters) for cut, parameters in groups.items()]

    def _finding(self, cut: _Cut, parameters: list[ParameterInfo]) -> Finding:
        modules = tuple(dict.fromkeys(parameter.module for parameter in parameters))
        culprit = () if cut.culprit is None else (cut.culprit,)
        names = [parameter.name for parameter in parameters]
        shown = ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        get = "gets" if len(names) == 1 else "get"
        return Finding(
            code=self.code,
            name=self.name,
            severity=cut.severity,
            modules=(*culprit, *(module for module in modules if module not in culprit)),
            cause=cut.cause,
            message=f"{shown} {get} no gradient.",
            evidence={"num_parameters": len(names), "first_parameter": names[0]},
            remedies=cut.remedies,
        )


class _Cuts:
    """Finds what cuts a parameter off; shared work is done once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._first_call: dict[str, Call] = {}
        for call in recording.calls:
            self._first_call.setdefault(call.module, call)
        self._types = {module.name: module.type for module in recording.modules}
        self._trainable = {parameter.module for parameter in recording.parameters if parameter.requires_grad}
        self._siblings_that_ran = {
            (module.parent, module.type) for module in recording.modules if module.name in self._first_call
        }
        self._parents = {module.name: module.parent for module in recording.modules}
        self._cutting_calls = [call for call in recording.calls if self._cuts(call)]

    def of(self, parameter: ParameterInfo) -> _Cut:
        module = parameter.module
        call = self._first_call.get(module)
        if call is None:
            return self._never_ran(module)
        culprit = next((c for c in self._cutting_calls if c.depth >= call.depth), None)
        if culprit is None:
            return _Cut(
                Severity.WARNING,
                None,
                "It ran, but the loss does not depend on what it returned.",
                (
                    "Use its output in the loss, or remove the module.",
                    "If it is meant, freeze it: requires_grad_(False).",
                ),
            )
        return self._cut_at(culprit)

    def _never_ran(self, module: str) -> _Cut:
        ancestor: str | None = module
        while ancestor is not None and ancestor not in self._first_call:
            if (self._parents.get(ancestor), self._types[ancestor]) in self._siblings_that_ran and _is_numbered(
                ancestor
            ):
                return _Cut(
                    Severity.INFO,
                    None,
                    "It was not chosen for this batch; others of its kind were (a mixture of experts, layers dropped at random).",
                    ("Nothing, if that is meant. Otherwise record a larger batch.",),
                )
            ancestor = self._parents.get(ancestor)
        return _Cut(
            Severity.WARNING,
            None,
            "Its module never ran in this pass.",
            ("Call it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
        )

    def _cuts(self, call: Call) -> bool:
        """A gradient could enter the call, but cannot come out of it, and it is not a caller of such a call alone."""
        wants = call.input_requires_grad or call.module in self._trainable
        if not (wants and call.finished) or call.output_requires_grad:
            return False
        if not self._recording.select(SignalKind.ACTIVATION, depth=call.depth):
            return False
        return not any(self._cuts(self._recording.calls[child]) for child in self._recording.children(call.depth))

    def _cut_at(self, call: Call) -> _Cut:
        name = f"'{call.module}' ({call.module_type})" if call.module else f"the model's forward ({call.module_type})"
        if not call.grad_enabled:
            cause = f"{name} ran with gradients off."
            remedies = ("Remove torch.no_grad(), inference_mode() or set_grad_enabled(False) around the call.",)
        elif not call.output_is_floating:
            cause = f"{name} returns integers (argmax, rounding, sampling), which have no gradient."
            remedies = (
                "Use a differentiable stand-in: softmax instead of argmax, a straight-through estimator, Gumbel-softmax.",
            )
        else:
            cause = f"Inside {name} the graph is cut: detach(), .data, .item(), no_grad(), or a new tensor made from the values."
            remedies = (f"Look for detach() and its kin in {name}'s forward, and remove it.",)
        return _Cut(Severity.ERROR, call.module, cause, (*remedies, "If it is meant, freeze what is before it."))


def _is_numbered(name: str) -> bool:
    return name.rpartition(".")[2].isdigit()
