"""One row of a report's table, with its numbers as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from headwater.findings import Finding, Severity


class RowKind(StrEnum):
    """What a row stands for."""

    CALL = "call"
    FOLD = "fold"
    UNCALLED = "uncalled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One call, or what stands for several.

    Args:
        kind: one call, several that are folded, or a module that never ran.
        level: nesting.
        name: the module's path from its caller, with the call's number if it was not the first; a fold's whole text.
        type: class name; "" for the model itself, whose name it is, and for folds.
        shape, activation_rms, gradient_norm, weight_gradient: as text; "" for what was not measured.
        gain_decades: log10 of the gradient's norm relative to the output's; None if unknown.
        gain_range_decades: smallest and largest of the calls that a fold stands for.
        codes: of the findings about it.
        remarks: what else is worth saying: frozen, no grad, zero, NaN, not called.
        details: where in a fold the findings are.
        severity: the worst finding on the row.
    """

    kind: RowKind = RowKind.CALL
    level: int
    name: str
    type: str = ""
    shape: str = ""
    activation_rms: str = ""
    gradient_norm: str = ""
    gain_decades: float | None = None
    gain_range_decades: tuple[float, float] | None = None
    weight_gradient: str = ""
    codes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    severity: Severity | None = None


def codes(findings: Sequence[Finding]) -> tuple[str, ...]:
    """The findings' codes, each once."""
    return tuple(dict.fromkeys(finding.code for finding in findings))


def worst(findings: Sequence[Finding]) -> Severity | None:
    """The severity of the worst finding; None of none."""
    return max((finding.severity for finding in findings), default=None)
