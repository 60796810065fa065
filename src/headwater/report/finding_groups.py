"""Findings that differ only in where they are, told together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.findings import Finding, RuleVerdict, Severity
from headwater.recording import Recording, SourceLine

_MAX_MESSAGES = 4
_MAX_MODULES = 6
_MAX_LINES = 3


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Findings with the same code, severity and remedies.

    Args:
        code, name, severity, remedies: of all of them.
        messages: what each of them says.
        causes: why, each cause once.
        modules: where, each module once, with its type.
        lines: of the user's code, each once.
    """

    code: str
    name: str
    severity: Severity
    messages: tuple[str, ...]
    causes: tuple[str, ...]
    modules: tuple[str, ...]
    lines: tuple[SourceLine, ...]
    remedies: tuple[str, ...]

    def shortened(self) -> FindingGroup:
        """The group with its first messages, causes and modules, and how many more there are of each."""
        return FindingGroup(
            self.code,
            self.name,
            self.severity,
            _first(self.messages, _MAX_MESSAGES, "like these"),
            _first(self.causes, _MAX_MESSAGES, "causes"),
            _first(self.modules, _MAX_MODULES, ""),
            self.lines[:_MAX_LINES],
            self.remedies,
        )


def sorted_findings(verdicts: Sequence[RuleVerdict]) -> tuple[Finding, ...]:
    """All findings, the most severe first, those of one severity in the order of the rules."""
    return tuple(sorted((f for verdict in verdicts for f in verdict.findings), key=lambda f: -f.severity))


def finding_groups(findings: Sequence[Finding], recording: Recording) -> tuple[FindingGroup, ...]:
    """The findings in groups that share a code, a severity and the remedies, in the order of their first ones."""
    types = {module.name: module.type for module in recording.modules}
    groups: dict[tuple, list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.severity, finding.remedies), []).append(finding)
    return tuple(_group(members, types) for members in groups.values())


def _group(members: Sequence[Finding], types: dict[str, str]) -> FindingGroup:
    first = members[0]
    modules = dict.fromkeys(module for finding in members for module in finding.modules)
    return FindingGroup(
        code=first.code,
        name=first.name,
        severity=first.severity,
        messages=tuple(dict.fromkeys(finding.message for finding in members)),
        causes=tuple(dict.fromkeys(finding.cause for finding in members)),
        modules=tuple(_with_type(module, types.get(module)) for module in modules),
        lines=tuple(dict.fromkeys(line for finding in members for line in finding.lines)),
        remedies=first.remedies,
    )


def _with_type(module: str, type: str | None) -> str:
    name = module or "the model"
    return f"{name} ({type})" if type else name


def _first(texts: tuple[str, ...], limit: int, noun: str) -> tuple[str, ...]:
    # "1 more" is no shorter than the one itself.
    if len(texts) <= limit + 1:
        return texts
    return (*texts[:limit], f"and {len(texts) - limit} more {noun}".rstrip())
