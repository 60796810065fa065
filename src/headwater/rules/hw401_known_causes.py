"""Why a parameter gets no gradient, in words (HW401)."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.findings import Severity
from headwater.recording import SourceLine


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
