"""What rules say about recordings: findings, nothing, or that they do not apply."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Protocol

from headwater.analysis import lines_of_modules
from headwater.recording import Recording, SourceLine


class Severity(IntEnum):
    """How bad a finding is, in order.

    >>> Severity.INFO < Severity.WARNING < Severity.ERROR
    True
    """

    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        code: stable for ever, as "HW101".
        name: the code's name, as "vanishing-gradient".
        severity: how bad it is.
        modules: paths of the modules it is about, the most important first ("" is the model itself).
        cause: why, in words.
        message: what, in words.
        evidence: every number that the message states, by name, with its unit in the name.
        remedies: what to do, the most effective first.
        lines: of the user's code, the most important first; empty where lines were not recorded.
    """

    code: str
    name: str
    severity: Severity
    modules: tuple[str, ...]
    cause: str
    message: str
    evidence: Mapping[str, float | int | str]
    remedies: tuple[str, ...]
    lines: tuple[SourceLine, ...] = ()


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """A rule lacks what it needs; the reason says what, and how to provide it."""

    reason: str


Verdict = list[Finding] | NotApplicable


class Rule(Protocol):
    """Looks for one kind of fault in a recording. Thresholds are fields with a unit and a source."""

    code: ClassVar[str]
    name: ClassVar[str]

    def check(self, recording: Recording) -> Verdict:
        """Findings, an empty list where all is well, or why the rule does not apply."""
        ...


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one rule said.

    Args:
        code, name: the rule's.
        findings: what it found.
        not_applicable: why it does not apply; None where it does.
    """

    code: str
    name: str
    findings: tuple[Finding, ...]
    not_applicable: str | None = None


def judge(recording: Recording, rules: Sequence[Rule]) -> tuple[RuleVerdict, ...]:
    """What each rule says about a recording, in the order of the rules. One that fails is not judged, and warned of.

    >>> from headwater.recording import RecordingBuilder
    >>> judge(RecordingBuilder().build(), [])
    ()
    """
    return tuple(_judged(rule, recording) for rule in rules)


def _judged(rule: Rule, recording: Recording) -> RuleVerdict:
    try:
        verdict = rule.check(recording)
    except Exception as error:  # noqa: BLE001 - whatever one rule stumbles over, the others have their say
        reason = f"the rule failed, which is a bug in headwater, please report it: {error!r:.200}"
        warnings.warn(f"{rule.code}: {reason}", RuntimeWarning, stacklevel=3)
        verdict = NotApplicable(reason)
    if isinstance(verdict, NotApplicable):
        return RuleVerdict(rule.code, rule.name, (), verdict.reason)
    return RuleVerdict(rule.code, rule.name, tuple(_with_lines(finding, recording) for finding in verdict))


def _with_lines(finding: Finding, recording: Recording) -> Finding:
    """The finding with the lines of its modules, where the rule named none and lines were recorded."""
    if finding.lines or not recording.line_table.size:
        return finding
    return replace(finding, lines=lines_of_modules(recording, finding.modules))
