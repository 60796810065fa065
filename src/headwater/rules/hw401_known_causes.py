"""Why a parameter gets no gradient, in words (HW401)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.findings import Severity
from headwater.recording import Operation, SourceLine
from headwater.rules.wording import distinct

_KINDS_OF_CUTS = "detach(), .data, .item(), no_grad(), or a new tensor made from the values"
_MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class Cut:
    """Why parameters of some modules are not reached."""

    severity: Severity
    culprits: tuple[str, ...]
    cause: str
    remedies: tuple[str, ...]
    lines: tuple[SourceLine, ...] = ()


NOT_CHOSEN = Cut(
    Severity.INFO,
    (),
    "It was not chosen for this batch; others of its kind were (a mixture of experts, layers dropped at random).",
    (
        "Nothing, if something chooses among them: record a larger batch. If nothing does, look at the loop over the list.",
    ),
)
ANOTHER_RAN_AGAIN = Cut(
    Severity.WARNING,
    (),
    "Its module never ran, while another one of its list ran again and again on what it had returned: a loop over the list "
    "that uses the same index?",
    ("Look at the index in the loop.", "If it is meant, remove the modules that do not run."),
)
NEVER_RAN = Cut(
    Severity.WARNING,
    (),
    "Its module never ran in this pass.",
    ("Call it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
)
NOT_READ = Cut(
    Severity.WARNING,
    (),
    "Its module ran and trains otherwise, but did not use this parameter.",
    ("Use it in forward(), or remove it.", "If it is meant, freeze it: requires_grad_(False)."),
)
NOT_IN_THE_LOSS = Cut(
    Severity.WARNING,
    (),
    "It ran, but the loss does not depend on what it returned.",
    ("Use its output in the loss, or remove the module.", "If it is meant, freeze it: requires_grad_(False)."),
)
BY_DESIGN = Cut(
    Severity.INFO,
    (),
    "The library's own code does not use it for these inputs and this loss (a mask token, a pooler, global attention); the rest "
    "of that part trains.",
    ("Nothing, if that is meant. To be sure, freeze it: requires_grad_(False).",),
)
LAST_OF_A_STACK = Cut(
    Severity.INFO,
    (),
    "It belongs to the last block of a stack, which hands nothing on; the same parameter of every block before it trains.",
    ("Nothing, or leave it out of the last block.",),
)


def left_out_by(statement: Operation, how: str) -> Cut:
    """Layers that a loop over their list never comes to."""
    lines = lines_of([statement])
    if how == "ends":
        remedy = "Move the return (or break) out of the loop: one level of indentation less."
        return Cut(Severity.WARNING, (), "The loop over its list ends in its first round.", (remedy,), lines)
    remedies = (
        "Let the loop run over the whole list, or remove the layers that it leaves out.",
        "If it is meant, freeze them: requires_grad_(False).",
    )
    return Cut(Severity.WARNING, (), "The loop over its list leaves it out.", remedies, lines)


def aside(operations: Sequence[Operation]) -> Cut:
    """A cut beside a living way, or of a parameter that is read where its module does not run."""
    return Cut(
        Severity.WARNING,
        (),
        f"All that depends on it and is used goes through {operation_names(operations)}, which has no gradient.",
        (
            "If it shall train, look for another way there: a straight-through estimator, Gumbel-softmax, or without detach().",
            "If it is meant, freeze it: requires_grad_(False).",
        ),
        lines_of(operations),
    )


def operation_names(operations: Sequence[Operation]) -> str:
    """The first of their names."""
    return ", ".join(distinct([operation.name for operation in operations])[:_MOST_LINES])


def by_operations(operations: Sequence[Operation]) -> str:
    """By what the graph is cut, as the end of a sentence."""
    return f" by {operation_names(operations)}" if operations else f": {_KINDS_OF_CUTS}"


def lines_of(operations: Sequence[Operation]) -> tuple[SourceLine, ...]:
    """The first of the lines that they stand in."""
    return tuple(dict.fromkeys(o.line for o in operations if o.line is not None))[:_MOST_LINES]
