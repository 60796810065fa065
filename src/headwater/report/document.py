"""What every renderer needs of a diagnosis, computed once: header, table rows (folded), findings, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.analysis import DepthProfile, expected_rate, loss_scale, time_steps
from headwater.findings import Finding, RuleVerdict, Severity
from headwater.recording import Recording
from headwater.report.finding_groups import FindingGroup, finding_groups, sorted_findings
from headwater.report.numbers import count, decades, number
from headwater.report.table_row import TableRow
from headwater.report.table_rows import table_rows
from headwater.report.time_rows import TimeRow, time_rows

_SAME_DECADES = 0.5  # a factor of three either way is "about as strong"
_BACKWARD = {
    "loss": "gradient of the loss",
    "random": "random cotangents (no loss)",
    "user": "your own backward pass",
    "none": "no backward pass",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A diagnosis, ready to be rendered. What the user's model named is not yet made safe to print.

    Args:
        title: what was diagnosed.
        facts: the pass in a few words, one fact each.
        answer: the first thing to read: does the gradient arrive?
        severity: of the worst finding; None if there is none.
        is_healthy: there is no finding although a backward pass was judged.
        remarks: that the loss is badly scaled, and what theory expects of the layers beside what was measured, where they say
            something.
        counts: which codes were found how often, the worst first; empty if the answer says it all.
        rows: the table, folded.
        all_rows: the table with every call.
        num_calls: all of them.
        num_hidden: calls that stand behind a fold in `rows`.
        over_time: what recurrent modules do from step to step.
        findings: in groups, the most severe first.
        passed: codes and names of the rules that found nothing.
        not_applicable: reasons why rules did not apply, each with their codes and names.
        notes: what could not be observed.
    """

    title: str
    facts: tuple[str, ...]
    answer: str
    severity: Severity | None
    is_healthy: bool
    remarks: tuple[str, ...]
    counts: tuple[str, ...]
    rows: tuple[TableRow, ...]
    all_rows: tuple[TableRow, ...]
    num_calls: int
    num_hidden: int
    over_time: tuple[TimeRow, ...]
    findings: tuple[FindingGroup, ...]
    passed: tuple[str, ...]
    not_applicable: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def document(recording: Recording, verdicts: Sequence[RuleVerdict], profile: DepthProfile) -> Document:
    """The document of a diagnosis, in time linear in the recording.

    >>> from headwater.analysis import depth_profile
    >>> from headwater.recording import RecordingBuilder
    >>> empty = RecordingBuilder().build()
    >>> document(empty, (), depth_profile(empty)).answer
    'No call of the model was recorded.'
    """
    findings = sorted_findings(verdicts)
    table = table_rows(recording, profile.rows, findings)
    return Document(
        title=recording.context.model_type or "model",
        facts=_facts(recording),
        answer=_answer(recording, profile, findings, verdicts),
        severity=findings[0].severity if findings else None,
        is_healthy=bool(verdicts) and not findings and profile.cotangent is not None,
        remarks=tuple(
            str(remark) for remark in (loss_scale(recording), expected_rate(recording)) if remark is not None
        ),
        counts=_counts(findings) if len(findings) > 1 else (),
        rows=table.folded,
        all_rows=table.all,
        num_calls=len(profile.rows),
        num_hidden=table.num_hidden,
        over_time=time_rows(time_steps(recording)),
        findings=finding_groups(findings, recording),
        passed=tuple(f"{v.code} {v.name}" for v in verdicts if v.not_applicable is None and not v.findings),
        not_applicable=_not_applicable(verdicts),
        notes=recording.context.notes,
    )


def _facts(recording: Recording) -> tuple[str, ...]:
    context = recording.context
    sizes = [(math.prod(parameter.shape), parameter.requires_grad) for parameter in recording.parameters]
    num_frozen = sum(size for size, is_trained in sizes if not is_trained)
    parameters = count(sum(size for size, _ in sizes), "parameter")
    frozen = f" ({num_frozen:,} frozen)" if num_frozen else ""
    facts = [f"{parameters}{frozen} in {count(len(recording.modules), 'module')}"]
    if context.loss is not None:
        facts.append(f"loss {number(context.loss)}")
    return (*facts, _BACKWARD.get(context.cotangent, context.cotangent))


def _answer(
    recording: Recording, profile: DepthProfile, findings: Sequence[Finding], verdicts: Sequence[RuleVerdict]
) -> str:
    if findings and findings[0].severity >= Severity.WARNING:
        return findings[0].message
    if not recording.calls:
        return "No call of the model was recorded."
    if profile.cotangent is None:
        return "No backward pass was recorded: only the forward signal could be judged."
    if not verdicts:
        return "No rule was asked to judge it."
    strength = _strength_at_first_layer(profile)
    if findings:
        return f"Nothing alarming{f': at the first layer the gradient is {strength}' if strength else ''}."
    return f"The gradient reaches every layer{f': at the first it is {strength}' if strength else ''}."


def _strength_at_first_layer(profile: DepthProfile) -> str:
    gains = (row.gain_decades for row in profile.rows if row.trains and row.gain_decades is not None)
    gain = next(gains, math.nan)
    if not math.isfinite(gain):
        return ""
    if abs(gain) < _SAME_DECADES:
        return "about as strong as at the output"
    size = decades(abs(gain)).removeprefix("+")
    return f"{size} decades {'weaker' if gain < 0 else 'stronger'} than at the output"


def _counts(findings: Sequence[Finding]) -> tuple[str, ...]:
    num_of: dict[tuple[Severity, str, str], int] = {}
    for finding in findings:
        key = (finding.severity, finding.code, finding.name)
        num_of[key] = num_of.get(key, 0) + 1
    return tuple(
        f"{severity.name.lower()} {code} {name}{f' ({num} times)' if num > 1 else ''}"
        for (severity, code, name), num in num_of.items()
    )


def _not_applicable(verdicts: Sequence[RuleVerdict]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.not_applicable is not None:
            by_reason.setdefault(verdict.not_applicable, []).append(f"{verdict.code} {verdict.name}")
    return tuple((reason, tuple(rules)) for reason, rules in by_reason.items())
