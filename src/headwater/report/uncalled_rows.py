"""Rows for the modules that own parameters and never ran as modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headwater.findings import Finding, Severity
from headwater.recording import Recording, SignalKind, TensorStats, merged_stats
from headwater.report.numbers import number
from headwater.report.printable import listed
from headwater.report.table_row import RowKind, TableRow, codes, worst

_MAX_SHOWN = 6
NOT_CALLED = "not called"
# Containers that hold parameters for others to use, and cannot be called.
_HOLDERS = ("ParameterList", "ParameterDict")


def uncalled_rows(recording: Recording, by_module: Mapping[str, Sequence[Finding]], *, level: int) -> list[TableRow]:
    """One row for each part of the model that owns parameters and never ran, in `named_modules()` order.

    Their weights may have a gradient all the same: `nn.MultiheadAttention` reads those of its `out_proj`.

    Args:
        recording: the data.
        by_module: findings about each module.
        level: nesting of the rows.
    """
    top_of = _tops(recording)
    stats: dict[str, list[TensorStats]] = {}
    for signal in recording.select(SignalKind.WEIGHT_GRADIENT, depth=-1):
        stats.setdefault(top_of.get(signal.module, ""), []).append(signal.stats)
    findings: dict[str, list[Finding]] = {}
    for module, top in top_of.items():
        findings.setdefault(top, []).extend(by_module.get(module, ()))
    types = {module.name: module.type for module in recording.modules}
    return [_row(top, types[top], level, merged_stats(stats.get(top, ())), own) for top, own in findings.items()]


def folded_uncalled_rows(rows: Sequence[TableRow]) -> Sequence[TableRow]:
    """The first of the rows, and one that stands for the rest of them."""
    if len(rows) <= _MAX_SHOWN + 1:
        return rows
    hidden = rows[_MAX_SHOWN:]
    places: dict[str, list[str]] = {}
    for row in hidden:
        if row.severity is not None and row.severity >= Severity.WARNING:
            for code in row.codes:
                places.setdefault(code, []).append(row.name)
    rest = TableRow(
        kind=RowKind.FOLD,
        level=hidden[0].level,
        name=f"{len(hidden)} more, {hidden[0].name} to {hidden[-1].name}: {NOT_CALLED}",
        codes=tuple(dict.fromkeys(code for row in hidden for code in row.codes)),
        details=tuple(f"{code} at {listed(names, 5)}" for code, names in places.items()),
        severity=max((row.severity for row in hidden if row.severity is not None), default=None),
    )
    return [*rows[:_MAX_SHOWN], rest]


def _row(name: str, type: str, level: int, gradient: TensorStats | None, findings: Sequence[Finding]) -> TableRow:
    return TableRow(
        kind=RowKind.UNCALLED,
        level=level,
        name=name,
        type=type,
        weight_gradient=number(gradient.mean_abs) if gradient is not None and gradient.finite_count else "",
        codes=codes(findings),
        remarks=() if type in _HOLDERS else (NOT_CALLED,),
        severity=worst(findings),
    )


def _tops(recording: Recording) -> dict[str, str]:
    """For each module in a part of the model that owns parameters and never ran: the root of that part."""
    ran = {call.module for call in recording.calls}
    owns = {parameter.module for parameter in recording.parameters}
    for module in reversed(recording.modules):  # children before parents
        if module.parent is not None:
            if module.name in ran:
                ran.add(module.parent)
            if module.name in owns:
                owns.add(module.parent)
    tops: dict[str, str] = {}
    for module in recording.modules:
        if module.name and module.name not in ran and module.name in owns:
            tops[module.name] = tops.get(module.parent or "", module.name)
    return tops
