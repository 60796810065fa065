"""For tests: a network whose gradient does not flow fails, with a message that says where and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from headwater.diagnosis import Diagnosis, diagnose
from headwater.findings import Finding, Severity
from headwater.report import place
from headwater.rules import ALL_RULES
from headwater.rules.selection import selected

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def assert_gradients_flow(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Optimizer | None = None,
    fail_on: str = "warning",
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    **options: Any,
) -> Diagnosis:
    """The diagnosis of a model whose gradient flows; the model is left as it was.

    Args:
        model: the network, in the mode that shall be judged.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        targets: second argument of the loss, if it takes one.
        loss: as `headwater.diagnose` takes it.
        optimizer: that will train the model, for the rules that look at its steps.
        fail_on: the least severity that fails: "info", "warning" or "error".
        select: codes of the rules to ask, or their beginnings, as "HW1"; all, if there are none.
        ignore: codes of rules not to ask.
        options: further arguments of `headwater.diagnose`.

    Raises:
        AssertionError: there is a finding at least that severe; the message tells what, where, why and what to do.
        ValueError: no such severity or code.
        ProblemError: the pass cannot be run.

    >>> import torch
    >>> assert_gradients_flow(torch.nn.Linear(4, 1), torch.randn(8, 4))
    <Diagnosis of Linear: healthy>
    """
    __tracebackhide__ = True
    if fail_on.upper() not in Severity.__members__:
        raise ValueError(f"expected fail_on to be 'info', 'warning' or 'error', got '{fail_on}'")
    rules = selected(ALL_RULES, select, ignore)
    diagnosis = diagnose(model, inputs, targets, loss=loss, optimizer=optimizer, rules=rules, **options)
    failures = [finding for finding in diagnosis.findings if finding.severity >= Severity[fail_on.upper()]]
    if failures:
        raise AssertionError(_message(type(model).__name__, failures))
    return diagnosis


def _message(name: str, failures: list[Finding]) -> str:
    lines = [f"the gradient does not flow through {name}: {failures[0].message}"]
    for finding in failures:
        where = ", ".join(module or "the model" for module in finding.modules[:3])
        lines += [
            "",
            f"{finding.severity.name.lower()} {finding.code} {finding.name} at {where}",
            f"  what {finding.message}",
            f"  why  {finding.cause}",
            *(f"  line {place(line)}  {line.code}" for line in finding.lines[:1]),
            *(f"  do   {remedy}" for remedy in finding.remedies[:1]),
        ]
    return "\n".join([*lines, "", "The whole report: print(headwater.diagnose(...)) with the same arguments."])
