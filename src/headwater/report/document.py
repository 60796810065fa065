"""What every renderer needs of a diagnosis, computed once: header, table rows (folded), findings, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headwater.analysis import DepthProfile, ProfileRow
from headwater.findings import Finding, RuleVerdict, Severity
from headwater.recording import Recording, SignalKind
from headwater.report.folding import Folded, folded
from headwater.report.numbers import count, number, shape


@dataclass(frozen=True, slots=True)
class TableRow:
    """One call, or what stands for several.

    Args:
        level: nesting, for indentation.
        name: last part of the module's path, with the call's number if it was not the first.
        type: class name; "" for a fold line.
        shape, activation_rms, gradient_norm, weight_gradient: as text.
        gain_decades: log10 of the gradient's norm relative to the output's; None if unknown.
        gain_range_decades: smallest and largest of the calls that a fold stands for.
        flags: finding codes and remarks.
        is_fold: stands for several calls that are not shown.
        severity: the worst finding on the row.
    """

    level: int
    name: str
    type: str
    shape: str = ""
    activation_rms: str = ""
    gradient_norm: str = ""
    gain_decades: float | None = None
    gain_range_decades: tuple[float, float] | None = None
    weight_gradient: str = ""
    flags: tuple[str, ...] = ()
    is_fold: bool = False
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A diagnosis, ready to be rendered.

    Args:
        title: what was diagnosed.
        facts: one line about the pass.
        answer: the first thing to read: does the gradient arrive?
        rows: the table, folded.
        all_rows: the table with every call.
        findings: the most severe first.
        not_applicable: code and reason of each rule that did not apply.
        notes: what could not be observed.
    """

    title: str
    facts: str
    answer: str
    rows: tuple[TableRow, ...]
    all_rows: tuple[TableRow, ...]
    findings: tuple[Finding, ...]
    not_applicable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = field(default_factory=tuple)


def document(recording: Recording, verdicts: Sequence[RuleVerdict], profile: DepthProfile) -> Document:
    """The document of a diagnosis, in time linear in the recording."""
    findings = sorted_findings(verdicts)
    flags = _finding_flags(findings)
    remarks = _Remarks(recording)
    rows = tuple(_row(row, flags, remarks) for row in profile.rows)
    return Document(
        title=f"Headwater: {recording.context.model_type or 'model'}",
        facts=_facts(recording),
        answer=_answer(recording, findings),
        rows=tuple(
            _fold_row(entry, rows) if isinstance(entry, Folded) else rows[entry] for entry in folded(profile.rows)
        ),
        all_rows=rows,
        findings=findings,
        not_applicable=tuple((v.code, v.not_applicable) for v in verdicts if v.not_applicable is not None),
        notes=recording.context.notes,
    )


def sorted_findings(verdicts: Sequence[RuleVerdict]) -> tuple[Finding, ...]:
    """All findings, the most severe first, those of one severity in the order of the rules."""
    return tuple(sorted((f for verdict in verdicts for f in verdict.findings), key=lambda f: -f.severity))


def _row(row: ProfileRow, findings: dict[str, list[Finding]], remarks: _Remarks) -> TableRow:
    own = findings.get(row.module, [])
    name = remarks.relative_name(row)
    return TableRow(
        level=row.level,
        name=f"{name} #{row.call + 1}" if row.call else name,
        type=row.module_type,
        shape=shape(row.shape),
        activation_rms=number(row.activation.rms) if row.activation is not None else "",
        gradient_norm=number(row.activation_gradient.norm) if row.activation_gradient is not None else "",
        gain_decades=row.gain_decades,
        weight_gradient=number(row.weight_gradient_mean_abs) if row.weight_gradient_mean_abs is not None else "",
        flags=(*dict.fromkeys(finding.code for finding in own), *remarks.of(row)),
        severity=max((finding.severity for finding in own), default=None),
    )


def _fold_row(fold: Folded, rows: Sequence[TableRow]) -> TableRow:
    what = f"{fold.num_repeats} more" if fold.num_repeats else f"{fold.stop - fold.start} calls"
    hidden = [rows[index] for index in range(fold.start, fold.stop)]
    gains = [row.gain_decades for row in hidden if row.gain_decades is not None and math.isfinite(row.gain_decades)]
    codes = dict.fromkeys(flag for row in hidden for flag in row.flags if flag.startswith("HW"))
    return TableRow(
        level=rows[fold.start].level,
        name=f"... {what}: {rows[fold.start].name} to {rows[fold.last].name}",
        type="",
        gain_range_decades=(min(gains), max(gains)) if gains else None,
        flags=tuple(codes),
        is_fold=True,
        severity=max((row.severity for row in hidden if row.severity is not None), default=None),
    )


def _finding_flags(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    by_module: dict[str, list[Finding]] = {}
    for finding in findings:
        for module in finding.modules:
            by_module.setdefault(module, []).append(finding)
    return by_module


class _Remarks:
    """What is worth saying of a row besides findings."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        trainable: dict[str, bool] = {}
        for parameter in recording.parameters:
            trainable[parameter.module] = trainable.get(parameter.module, False) or parameter.requires_grad
        self._frozen = {module for module, trains in trainable.items() if not trains}
        self._saw_backward = recording.context.cotangent != "none"

    def relative_name(self, row: ProfileRow) -> str:
        """The module's path from the module that called it."""
        if not row.module:
            return "(model)"
        parent = self._recording.calls[row.depth].parent
        caller = self._recording.calls[parent].module if parent >= 0 else ""
        return row.module.removeprefix(f"{caller}.") if caller else row.module

    def of(self, row: ProfileRow) -> tuple[str, ...]:
        remarks: list[str] = []
        call = self._recording.calls[row.depth]
        if not call.finished:
            remarks.append("raised")
        if row.module in self._frozen:
            remarks.append("frozen")
        if self._saw_backward and row.activation is not None and row.activation_gradient is None:
            remarks.append("no grad")
        elif row.activation_gradient is not None and row.activation_gradient.is_zero:
            remarks.append("zero")
        for stats in (row.activation, row.activation_gradient, row.weight_gradient):
            if stats is not None and stats.nonfinite_count:
                remarks.append("NaN" if stats.nan_count else "Inf")
                break
        return tuple(remarks)


def _facts(recording: Recording) -> str:
    context = recording.context
    parameters = sum(math.prod(parameter.shape) for parameter in recording.parameters)
    parts = [f"{count(len(recording.modules))} modules, {count(parameters)} parameters"]
    if context.loss is not None:
        parts.append(f"loss {number(context.loss)}")
    parts.append(
        {
            "loss": "gradient of the loss",
            "random": "random cotangents (no loss)",
            "user": "your own backward pass",
            "none": "no backward pass",
        }[context.cotangent]
    )
    return "; ".join(parts)


def _answer(recording: Recording, findings: Sequence[Finding]) -> str:
    serious = [finding for finding in findings if finding.severity >= Severity.WARNING]
    if serious:
        return serious[0].message
    if not recording.select(SignalKind.ACTIVATION_GRADIENT):
        return "No backward pass was recorded; only the forward signal could be judged."
    return "The gradient reaches every layer that can be trained: nothing to worry about."
