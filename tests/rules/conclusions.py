"""What tests ask of verdicts."""

from __future__ import annotations

import re

from headwater.findings import Finding, Severity, judge
from headwater.recording import Recording
from headwater.rules import ALL_RULES

_QUOTED = re.compile(r"'[^']*'|\([^)]*\)")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


def findings(recording: Recording, rules=ALL_RULES) -> list[Finding]:
    return [finding for verdict in judge(recording, rules) for finding in verdict.findings]


def the_finding(recording: Recording, rule) -> Finding:
    """The only one of a rule."""
    (finding,) = findings(recording, [rule])
    return finding


def alarms(found: list[Finding]) -> list[tuple[str, Severity, tuple[str, ...]]]:
    """Those that would worry somebody."""
    return [(f.code, f.severity, f.modules) for f in found if f.severity >= Severity.WARNING]


def numbers_without_evidence(finding: Finding) -> list[str]:
    """The numbers of the message that are not in the evidence; names, which may hold digits, are left out."""
    known = [value for value in finding.evidence.values() if not isinstance(value, str)]
    return [
        number
        for number in _NUMBER.findall(_QUOTED.sub("", finding.message))
        if not any(_is_shown_as(float(value), number) for value in known)
    ]


def _is_shown_as(value: float, number: str) -> bool:
    decimals = len(number.partition(".")[2]) if "e" not in number else 0
    shown = {f"{value:.{decimals}f}", *(f"{value:.{digits}g}" for digits in (2, 3))}
    return number in shown


def assert_well_said(found: list[Finding]) -> None:
    """Each finding names a cause and a remedy, and every number in its message is in its evidence."""
    for finding in found:
        assert finding.cause.endswith(".")
        assert finding.message.endswith(".")
        assert finding.remedies
        assert finding.modules
        assert len(set(finding.modules)) == len(finding.modules)
        assert numbers_without_evidence(finding) == []
