"""HW401: parameters that want a gradient and get none, and what cuts them off."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.dataflow import dataflow
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Operation, ParameterInfo, Recording, SignalKind, SourceLine
from headwater.rules.wording import counted, distinct, listed, named

_GRADIENTS = (SignalKind.WEIGHT_GRADIENT, SignalKind.ACTIVATION_GRADIENT)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Why parameters of some modules are not reached."""

    severity: Severity
    culprits: tuple[str, ...]
    cause: str
    remedies: tuple[str, ...]
    lines: tuple[SourceLine, ...] = ()


_NOT_CHOSEN = _Cut(
    Severity.INFO,
    (),
    "It was not chosen for this batch; others of its kind were (a mixture of experts, layers dropped at random).",
    ("Nothing, if that is meant. Otherwise record a larger batch.",),
)
_NEVER_RAN = _Cut(
    Severity.WARNING,
    (),
    "Its module never ran in this pass.",
    ("Call it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
)
_NOT_READ = _Cut(
    Severity.WARNING,
    (),
    "Its module ran and trains otherwise, but did not use this parameter.",
    ("Use it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
)
_NOT_IN_THE_LOSS = _Cut(
    Severity.WARNING,
    (),
    "It ran, but the loss does not depend on what it returned.",
    ("Use its output in the loss, or remove the module.", "If it is meant, freeze it: requires_grad_(False)."),
)
_BY_DESIGN = _Cut(
    Severity.INFO,
    (),
    "The library's own code does not use it for these inputs and this loss (a mask token, a pooler, global attention); the rest "
    "of that part trains.",
    ("Nothing, if that is meant. To be sure, freeze it: requires_grad_(False).",),
)
_LAST_OF_A_STACK = _Cut(
    Severity.INFO,
    (),
    "It belongs to the last block of a stack, which hands nothing on; the same parameter of every block before it trains.",
    ("Nothing, or leave it out of the last block.",),
)
_KINDS_OF_CUTS = "detach(), .data, .item(), no_grad(), or a new tensor made from the values"
_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
_MOST_LINES = 3
_FREEZE = "If it is meant, freeze what is before it: requires_grad_(False)."


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreachedParameter:
    """HW401: a parameter that requires a gradient received none although a backward pass ran.

    Frozen parameters are not asked for. What a library's own code leaves out for these inputs (a mask token, a pooler), while the
    part that it belongs to trains, is only worth knowing; so is the exit of the last block of a stack. An expert that was not chosen (a numbered sibling of the same type ran) is only
    worth knowing. No threshold.
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
        cuts = _Cuts(recording)
        groups: dict[_Cut, list[ParameterInfo]] = {}
        for parameter in unreached:
            groups.setdefault(cuts.of(parameter), []).append(parameter)
        return [self._finding(cut, parameters) for cut, parameters in groups.items()]

    def _finding(self, cut: _Cut, parameters: list[ParameterInfo]) -> Finding:
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


def _is_one_of_many(module: str) -> bool:
    """Whether the name is that of an entry of a list, or says expert."""
    name = module.rpartition(".")[2]
    return name.isdigit() or "expert" in name.lower()


class _Cuts:
    """Finds what cuts a parameter off; shared work is done once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._flow = dataflow(recording)
        self._first_call: dict[str, Call] = {}
        for call in recording.calls:
            self._first_call.setdefault(call.module, call)
        self._types = {module.name: module.type for module in recording.modules}
        self._parents = {module.name: module.parent for module in recording.modules}
        self._kinds_that_ran = {
            (module.parent, module.type) for module in recording.modules if module.name in self._first_call
        }
        self._trained = {p.module for p in recording.parameters if p.requires_grad and p.received_gradient}
        self._trained_names = {p.name for p in recording.parameters if p.requires_grad and p.received_gradient}
        self._around_trained = {around for module in self._trained for around in self._self_and_around(module)}
        self._from_libraries = {one.module for one in recording.series("is_from_a_library")}
        self._cutting_depths = self._find_cutting_calls()

    def of(self, parameter: ParameterInfo) -> _Cut:
        cut = self._found(parameter)
        if cut in (_NEVER_RAN, _NOT_READ, _NOT_IN_THE_LOSS) and self._is_the_librarys_affair(parameter.module):
            return _BY_DESIGN
        return _LAST_OF_A_STACK if cut is _NOT_IN_THE_LOSS and self._ends_a_stack(parameter) else cut

    def _is_the_librarys_affair(self, module: str) -> bool:
        """Whether a library's code decides what becomes of the parameter.

        It is that of the module around the largest part that gets nothing: a library's layer that the user's forward forgets is the
        user's affair.
        """
        around: str | None = module
        while around is not None and around not in self._around_trained:
            around = self._parents.get(around)
        while around is not None and self._types.get(around) in _CONTAINERS:
            around = self._parents.get(around)
        return around is not None and around in self._from_libraries

    def _ends_a_stack(self, parameter: ParameterInfo) -> bool:
        """Whether the blocks before it, in a list of like ones, all get a gradient there, and its own block gets some elsewhere."""
        parts = parameter.name.split(".")
        for i, part in enumerate(parts):
            block = ".".join(parts[: i + 1])
            if not part.isdigit() or block not in self._around_trained or self._types.get(block) is None:
                continue
            like = [name for name in self._like(block) if name in self._around_trained]
            others = {".".join((name, *parts[i + 1 :])) for name in like if name != block}
            is_last = all(int(name.rpartition(".")[2]) <= int(part) for name in like)
            if others and is_last and others <= self._trained_names:
                return True
        return False

    def _like(self, block: str) -> list[str]:
        key = (self._parents.get(block), self._types[block])
        return [name for name in self._types if (self._parents[name], self._types[name]) == key]

    def _found(self, parameter: ParameterInfo) -> _Cut:
        call = self._first_call.get(parameter.module)
        if call is None:
            return self._not_run(parameter.module)
        if parameter.module in self._trained:
            return _NOT_READ
        position = bisect_left(self._cutting_depths, call.depth)
        if position < len(self._cutting_depths):
            return self._cut_at(self._recording.calls[self._cutting_depths[position]])
        return self._cut_behind(call) or _NOT_IN_THE_LOSS

    def _self_and_around(self, module: str | None) -> Iterator[str]:
        while module is not None:
            yield module
            module = self._parents.get(module)

    def _not_run(self, module: str) -> _Cut:
        ancestor: str | None = module
        while ancestor is not None and ancestor not in self._first_call:
            if (
                _is_one_of_many(ancestor)
                and (self._parents.get(ancestor), self._types[ancestor]) in self._kinds_that_ran
            ):
                return _NOT_CHOSEN
            ancestor = self._parents.get(ancestor)
        return _NEVER_RAN

    def _find_cutting_calls(self) -> list[int]:
        """Depths of the innermost calls that a gradient could enter, but not leave."""
        trainable = {parameter.module for parameter in self._recording.parameters if parameter.requires_grad}
        returning = {signal.depth for signal in self._recording.select(SignalKind.ACTIVATION)}
        found: list[int] = []
        callers_of_found: set[int] = set()
        for call in reversed(self._recording.calls):
            wants = call.finished and (call.input_requires_grad or call.module in trainable)
            cuts = wants and not call.output_requires_grad and call.depth in returning
            if cuts and call.depth not in callers_of_found:
                found.append(call.depth)
            if cuts or call.depth in callers_of_found:
                callers_of_found.add(call.parent)
        return found[::-1]

    def _cut_at(self, call: Call) -> _Cut:
        inside = self._cutting_operations(call.depth, nested=True)
        if not call.grad_enabled:
            while call.parent >= 0 and not self._recording.calls[call.parent].grad_enabled:
                call = self._recording.calls[call.parent]
            inside = self._cutting_operations(call.depth, nested=True)
            cause = f"{named(call)} ran with gradients off."
            remedy = "Remove torch.no_grad(), inference_mode() or set_grad_enabled(False) around the call."
        elif not call.output_is_floating:
            how = _names(inside) or "argmax, rounding, sampling"
            cause = f"{named(call)} returns integers ({how}), which have no gradient."
            remedy = "Use a differentiable stand-in: softmax instead of argmax, a straight-through estimator, Gumbel-softmax."
        else:
            cause = f"Inside {named(call)} the graph is cut{_by(inside)}."
            remedy = f"Look for detach() and its kin in the forward of {named(call)}, and remove it."
        return _Cut(Severity.ERROR, (call.module,), cause, (remedy, _FREEZE), _lines(inside))

    def _cutting_operations(self, depth: int, *, nested: bool) -> list[Operation]:
        """Those that ran in a call itself, or, if they may be nested, in the calls it made."""
        calls = self._recording.calls
        around = {depth}
        for call in calls[depth + 1 :] if nested else ():
            if call.parent in around:
                around.add(call.depth)
        cuts = [operation for operation in self._recording.operations if operation.is_cut and operation.is_finite]
        return [operation for operation in cuts if operation.depth in around]

    def _cut_behind(self, call: Call) -> _Cut | None:
        """A cut in the caller's forward: the next call reads a tensor of the same shape that needs no gradient."""
        while call.parent >= 0:
            following = self._flow.next_siblings[call.depth]
            if following >= 0:
                return self._cut_between(call, self._recording.calls[following])
            call = self._recording.calls[call.parent]
        return None

    def _cut_between(self, call: Call, reader: Call) -> _Cut | None:
        made = {s.shape for s in self._recording.select(SignalKind.ACTIVATION, depth=call.depth)}
        is_fresh = any(
            signal.shape in made
            and self._flow.first_reader(signal.tensor) == reader.depth
            and signal.tensor not in self._flow.producers
            for signal in self._recording.select(SignalKind.INPUT, depth=reader.depth)
        )
        if reader.input_requires_grad or not is_fresh or not call.output_requires_grad or not reader.grad_enabled:
            return None
        caller = self._recording.calls[call.parent]
        inside = self._cutting_operations(caller.depth, nested=False)
        return _Cut(
            Severity.ERROR,
            (caller.module, call.module, reader.module),
            f"Between {named(call)} and {named(reader)}, in the forward of {named(caller)}, the graph is cut{_by(inside)}.",
            (f"Look for detach() and its kin in the forward of {named(caller)}, and remove it.", _FREEZE),
            _lines(inside),
        )


def _names(operations: list[Operation]) -> str:
    return ", ".join(distinct([operation.name for operation in operations])[:_MOST_LINES])


def _by(operations: list[Operation]) -> str:
    return f" by {_names(operations)}" if operations else f": {_KINDS_OF_CUTS}"


def _lines(operations: list[Operation]) -> tuple[SourceLine, ...]:
    return tuple(dict.fromkeys(o.line for o in operations if o.line is not None))[:_MOST_LINES]
