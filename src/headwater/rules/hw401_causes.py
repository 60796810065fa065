"""What cuts a parameter off from the gradient (HW401)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

from headwater.analysis.dataflow import dataflow
from headwater.analysis.tensor_graph import TensorGraph
from headwater.findings import Severity
from headwater.recording import Call, Operation, ParameterInfo, Recording, SignalKind
from headwater.rules.hw401_known_causes import (
    ANOTHER_RAN_AGAIN,
    BY_DESIGN,
    LAST_OF_A_STACK,
    NEVER_RAN,
    NOT_CHOSEN,
    NOT_IN_THE_LOSS,
    NOT_READ,
    Cut,
    aside,
    by_operations,
    left_out_by,
    lines_of,
    operation_names,
)
from headwater.rules.wording import counted, distinct, named

_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
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
        self._operations_behind = {
            (one.module, one.item): [recording.operations[int(index)] for index in one.values]
            for one in recording.series("cuts_behind")  # see headwater.capture.operation_assembly
        }
        self._with_constant_keys = {one.module for one in recording.series("has_constant_keys")}
        self._left_out = {
            one.module: left_out_by(recording.operations[int(one.values[0])], one.item)
            for one in recording.series("left_out_by_a_loop")  # see headwater.capture.loops_over_layers
        }
        self._cuts = sorted((o for o in recording.operations if o.is_cut and o.is_finite), key=lambda o: o.depth)
        self._cut_depths = [operation.depth for operation in self._cuts]
        self._cutting_depths = self._find_cutting_calls()
        self._without_gradients: dict[int, Cut] = {}
        self._kinds_that_ran_again: dict[tuple[str | None, str], bool] = {}
        self._cuts_behind: dict[int, Cut | None] = {}

    @cached_property
    def _around_called(self) -> set[str]:
        return {around for module in self._first_call for around in self._self_and_around(module)}

    @cached_property
    def _graph(self) -> TensorGraph:
        return TensorGraph(self._recording)

    def of(self, parameter: ParameterInfo) -> Cut:
        """The cause for one parameter that wants a gradient and got none."""
        cut = self._found(parameter)
        if cut in (NEVER_RAN, NOT_READ, NOT_IN_THE_LOSS) and self._is_the_librarys_affair(parameter.module):
            return BY_DESIGN
        if cut is NOT_IN_THE_LOSS and self._ends_a_stack(parameter):
            return LAST_OF_A_STACK
        if cut in (NEVER_RAN, NOT_READ, NOT_IN_THE_LOSS):
            operations = self._operations_behind.get((parameter.module, parameter.name.rpartition(".")[2]))
            return aside(operations) if operations else cut
        return cut

    def _is_the_librarys_affair(self, module: str) -> bool:
        """Whether a library's code decides what becomes of the parameter.

        It is that of the module around the largest part that gets nothing: a library's layer that the user's forward forgets is the
        user's affair.
        """
        around: str | None = module
        while around is not None and around not in self._around_trained:
            around = self._parents.get(around)
        # What never ran itself was read by somebody else's forward (F.linear(x, self.layer.weight.detach())).
        while around is not None and (around not in self._first_call or self._types.get(around) in _CONTAINERS):
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
            return NOT_READ
        position = bisect_left(self._cutting_depths, call.depth)
        if position < len(self._cutting_depths):
            return self._cut_at(self._recording.calls[self._cutting_depths[position]])
        return self._cut_behind(call) or NOT_IN_THE_LOSS

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
                if ancestor in self._left_out:
                    return self._left_out[ancestor]
                return ANOTHER_RAN_AGAIN if self._ran_again(ancestor) else NOT_CHOSEN
            if self._is_chosen_by_key(ancestor):
                return NOT_CHOSEN
            ancestor = self._parents.get(ancestor)
        return NEVER_RAN

    def _is_chosen_by_key(self, module: str) -> bool:
        """Whether it is an entry of a dict of which another one ran, and whose keys do not all stand in the code."""
        around = self._parents.get(module)
        if around is None or self._types.get(around) != "ModuleDict" or around in self._with_constant_keys:
            return False
        return around in self._around_called

    def _ran_again(self, module: str) -> bool:
        """Whether one like it ran on its own output in one forward of their caller, as no expert does."""
        key = (self._parents.get(module), self._types[module])
        if key not in self._kinds_that_ran_again:
            self._kinds_that_ran_again[key] = any(map(self._ran_on_its_own_output, self._like(module)))
        return self._kinds_that_ran_again[key]

    def _ran_on_its_own_output(self, module: str) -> bool:
        calls = [call for call in self._recording.calls if call.module == module]
        return any(
            earlier.parent == later.parent
            and (self._graph.handed_on(earlier, later) or self._graph.feeds(earlier, later))
            for earlier, later in pairwise(calls)
        )

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
        if not call.grad_enabled:
            return self._cut_without_gradients(call)
        inside = self._cutting_operations(call, call)
        if not call.output_is_floating:
            how = operation_names(inside) or "argmax, rounding, sampling"
            cause = f"{named(call)} returns integers ({how}), which have no gradient."
            remedy = "Use a differentiable stand-in: softmax instead of argmax, a straight-through estimator, Gumbel-softmax."
        else:
            cause = f"Inside {named(call)} the graph is cut{by_operations(inside)}."
            remedy = f"Look for detach() and its kin in the forward of {named(call)}, and remove it."
        return Cut(Severity.ERROR, (call.module,), cause, (remedy, _FREEZE), lines_of(inside))

    def _cut_without_gradients(self, call: Call) -> Cut:
        """Of all neighbouring calls with gradients off, the outermost: one `no_grad` around them is one cause."""
        calls = self._recording.calls
        while call.parent >= 0 and not calls[call.parent].grad_enabled:
            call = calls[call.parent]
        if call.depth not in self._without_gradients:
            siblings = [calls[depth] for depth in self._recording.children(call.parent)]
            here = siblings.index(call)
            first = next((i + 1 for i in range(here, -1, -1) if siblings[i].grad_enabled), 0)
            end = next((i for i in range(here, len(siblings)) if siblings[i].grad_enabled), len(siblings))
            off = siblings[first:end]
            who = named(call) if len(off) == 1 else f"{named(off[0])} and {counted(len(off) - 1, 'call')} after it"
            cut = Cut(
                Severity.ERROR,
                distinct([one.module for one in off]),
                f"{who} ran with gradients off.",
                ("Remove torch.no_grad(), inference_mode() or set_grad_enabled(False) around the call.", _FREEZE),
                lines_of(self._cutting_operations(off[0], off[-1])),
            )
            self._without_gradients.update(dict.fromkeys((one.depth for one in off), cut))
        return self._without_gradients[call.depth]

    def _cutting_operations(self, first: Call, last: Call) -> list[Operation]:
        """Those that ran from the beginning of one call to the end of another, with all that they called."""
        end = last.depth
        while children := self._recording.children(end):
            end = children[-1]
        begin = bisect_left(self._cut_depths, first.depth)
        return self._cuts[begin : bisect_right(self._cut_depths, end)]

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
        begin, end = (bisect(self._cut_depths, caller.depth) for bisect in (bisect_left, bisect_right))
        inside = self._cuts[begin:end]
        return Cut(
            Severity.ERROR,
            (caller.module, call.module, reader.module),
            f"Between {named(call)} and {named(reader)}, in the forward of {named(caller)}, the graph is cut{by_operations(inside)}.",
            (f"Look for detach() and its kin in the forward of {named(caller)}, and remove it.", _FREEZE),
            lines_of(inside),
        )
