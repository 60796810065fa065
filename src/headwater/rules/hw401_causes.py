"""What cuts a parameter off from the gradient (HW401)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from headwater.analysis.dataflow import dataflow
from headwater.findings import Severity
from headwater.recording import Call, Operation, ParameterInfo, Recording, SignalKind, SourceLine
from headwater.rules.wording import distinct, named


@dataclass(frozen=True, slots=True)
class Cut:
    """Why parameters of some modules are not reached."""

    severity: Severity
    culprits: tuple[str, ...]
    cause: str
    remedies: tuple[str, ...]
    lines: tuple[SourceLine, ...] = ()


_NOT_CHOSEN = Cut(
    Severity.INFO,
    (),
    "It was not chosen for this batch; others of its kind were (a mixture of experts, layers dropped at random).",
    ("Nothing, if that is meant. Otherwise record a larger batch.",),
)
_NEVER_RAN = Cut(
    Severity.WARNING,
    (),
    "Its module never ran in this pass.",
    ("Call it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
)
_NOT_READ = Cut(
    Severity.WARNING,
    (),
    "Its module ran and trains otherwise, but did not use this parameter.",
    ("Use it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
)
_NOT_IN_THE_LOSS = Cut(
    Severity.WARNING,
    (),
    "It ran, but the loss does not depend on what it returned.",
    ("Use its output in the loss, or remove the module.", "If it is meant, freeze it: requires_grad_(False)."),
)
_BY_DESIGN = Cut(
    Severity.INFO,
    (),
    "The library's own code does not use it for these inputs and this loss (a mask token, a pooler, global attention); the rest "
    "of that part trains.",
    ("Nothing, if that is meant. To be sure, freeze it: requires_grad_(False).",),
)
_LAST_OF_A_STACK = Cut(
    Severity.INFO,
    (),
    "It belongs to the last block of a stack, which hands nothing on; the same parameter of every block before it trains.",
    ("Nothing, or leave it out of the last block.",),
)
_KINDS_OF_CUTS = "detach(), .data, .item(), no_grad(), or a new tensor made from the values"
_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
_MOST_LINES = 3
_FREEZE = "If it is meant, freeze what is before it: requires_grad_(False)."


def _is_one_of_many(module: str) -> bool:
    """Whether the name is that of an entry of a list, or says expert."""
    name = module.rpartition(".")[2]
    return name.isdigit() or "expert" in name.lower()


class Cuts:
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
        self._cuts_behind: dict[int, Cut | None] = {}

    def of(self, parameter: ParameterInfo) -> Cut:
        """The cause for one parameter that wants a gradient and got none."""
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

    def _found(self, parameter: ParameterInfo) -> Cut:
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

    def _not_run(self, module: str) -> Cut:
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

    def _cut_at(self, call: Call) -> Cut:
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
        return Cut(Severity.ERROR, (call.module,), cause, (remedy, _FREEZE), _lines(inside))

    def _cutting_operations(self, depth: int, *, nested: bool) -> list[Operation]:
        """Those that ran in a call itself, or, if they may be nested, in the calls it made."""
        calls = self._recording.calls
        around = {depth}
        for call in calls[depth + 1 :] if nested else ():
            if call.parent in around:
                around.add(call.depth)
        cuts = [operation for operation in self._recording.operations if operation.is_cut and operation.is_finite]
        return [operation for operation in cuts if operation.depth in around]

    def _cut_behind(self, call: Call) -> Cut | None:
        """A cut in the caller's forward: some later call reads a tensor of the same shape that needs no gradient.

        Calls that hand on what wants a gradient, and get none themselves, stand before the same cut.
        """
        standing_before: list[int] = []
        cut: Cut | None = None
        while cut is None and call.parent >= 0:
            before, following = call, self._flow.next_siblings[call.depth]
            while following >= 0 and before.depth not in self._cuts_behind:
                standing_before.append(before.depth)
                reader = self._recording.calls[following]
                cut = self._cut_between(before, reader)
                if cut is not None or reader.module in self._around_trained or not self._hands_on(before, reader):
                    break
                before, following = reader, self._flow.next_siblings[following]
            cut = cut or self._cuts_behind.get(before.depth)
            call = self._recording.calls[call.parent]
        self._cuts_behind.update(dict.fromkeys(standing_before, cut))
        return cut

    def _hands_on(self, call: Call, reader: Call) -> bool:
        """Whether the reader seems to read what the call made, and returns something that wants a gradient."""
        made = {s.shape for s in self._recording.select(SignalKind.ACTIVATION, depth=call.depth)}
        read = {s.shape for s in self._recording.select(SignalKind.INPUT, depth=reader.depth)}
        return reader.input_requires_grad and reader.output_requires_grad and bool(made & read)

    def _cut_between(self, call: Call, reader: Call) -> Cut | None:
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
        return Cut(
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
