"""What each line of the user's code does to the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headwater.analysis.operation_path import OperationFlow, operation_flow
from headwater.recording import Operation, Recording, SourceLine, computed_once


@dataclass(frozen=True, slots=True)
class LineCost:
    """One operation as one line of code calls it.

    Args:
        file, line, code: where it stands.
        operation: the torch function, as "torch.sigmoid".
        calls: how often it ran.
        decades: sum over the calls of log10 of norm(largest gradient it sends on) / norm(gradient that arrives); -inf
            where one sent exactly zero. Along a chain the lines' decades add up to the way's.
        modules: paths of the modules it ran in, each once, in execution order.
    """

    file: str
    line: int
    code: str
    operation: str
    calls: int
    decades: float
    modules: tuple[str, ...]

    @property
    def source(self) -> SourceLine:
        """The line by itself."""
        return SourceLine(self.file, self.line, self.code)

    def __str__(self) -> str:
        times = "call" if self.calls == 1 else "calls"
        return f"{self.file}:{self.line} {self.operation} {self.decades:+.2f} decades over {self.calls} {times}"


def line_costs(recording: Recording) -> tuple[LineCost, ...]:
    """The lines that the gradient goes through, the largest loss first; empty where lines were not recorded.

    Operations that send the gradient to nothing but parameters have no gain, and are left out.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> line = SourceLine("model.py", 7, "x = torch.sigmoid(x)")
    >>> for name, norm in (("F.linear", 0.025), ("torch.sigmoid", 0.1)):
    ...     _ = builder.add_operation(name, line=line, gradient_norm=norm)
    >>> builder.add_operation_edge(1, 0)
    >>> print(line_costs(builder.build())[0])
    model.py:7 torch.sigmoid -0.60 decades over 1 call
    """
    flow = operation_flow(recording)
    groups: dict[tuple[SourceLine, str], list[Operation]] = {}
    for operation in flow.operations:
        if operation.line is not None and flow.producers[operation.index]:
            groups.setdefault((operation.line, operation.name), []).append(operation)
    costs = [_cost(recording, flow, line, name, operations) for (line, name), operations in groups.items()]
    return tuple(sorted(costs, key=lambda cost: (cost.decades, cost.file, cost.line, cost.operation)))


def lines_of_modules(recording: Recording, modules: Sequence[str], *, limit: int = 3) -> tuple[SourceLine, ...]:
    """The lines that the modules' own operations were called from, those that change the gradient most first.

    Where a module called nothing itself (an nn.Sequential), the lines of what ran inside of it.

    >>> from headwater.recording import RecordingBuilder
    >>> lines_of_modules(RecordingBuilder().build(), [""])
    ()
    """
    found: dict[SourceLine, None] = {}
    if not recording.line_table.size:
        return ()
    flow, own = operation_flow(recording), _operations_with_lines(recording)
    for module in modules:
        operations = own.get(module) or _operations_inside(recording, module)
        for operation in sorted(operations, key=lambda operation: -_size(flow.gain_decades(operation))):
            assert operation.line is not None
            found[operation.line] = None
    return tuple(found)[:limit]


@computed_once
def _operations_with_lines(recording: Recording) -> Mapping[str, Sequence[Operation]]:
    """Those that ran in each module itself."""
    found: dict[str, list[Operation]] = {}
    for operation in recording.operations:
        if operation.line is not None:
            module = recording.calls[operation.depth].module if operation.depth >= 0 else "outside of the model"
            found.setdefault(module, []).append(operation)
    return found


def _operations_inside(recording: Recording, module: str) -> list[Operation]:
    """Those that ran in what the module called."""
    own = _operations_with_lines(recording).values()
    found = [o for operations in own for o in operations if module in _modules_around(recording, o.depth)]
    return sorted(found, key=lambda operation: operation.index)


def _modules_around(recording: Recording, depth: int) -> list[str]:
    """Paths of the module that an operation ran in and of those that called it, innermost first."""
    modules: list[str] = []
    while depth >= 0:
        modules.append(recording.calls[depth].module)
        depth = recording.calls[depth].parent
    return modules


def _size(gain_decades: float) -> float:
    return 0.0 if math.isnan(gain_decades) else abs(gain_decades)


def _cost(
    recording: Recording, flow: OperationFlow, line: SourceLine, name: str, operations: list[Operation]
) -> LineCost:
    gains = [flow.gain_decades(operation) for operation in operations]
    modules = [recording.calls[operation.depth].module for operation in operations if operation.depth >= 0]
    return LineCost(
        file=line.file,
        line=line.line,
        code=line.code,
        operation=name,
        calls=len(operations),
        decades=-math.inf if -math.inf in gains else math.fsum(gain for gain in gains if not math.isnan(gain)),
        modules=tuple(dict.fromkeys(modules)),
    )
