"""A diagnosis in SARIF 2.1.0 (OASIS), which code hosts read to show findings at the lines of the source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headwater._version import __version__
from headwater.findings import Finding, RuleVerdict, Severity
from headwater.recording import SourceLine

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_ROOT = "%SRCROOT%"


def as_sarif(findings: Sequence[Finding], verdicts: Sequence[RuleVerdict]) -> dict[str, Any]:
    """One run with every rule that was asked, and a result for each finding.

    A file below the working directory is named relative to it; another one by its whole path; what is no file (a notebook's
    cell) has no place, but its module.

    >>> as_sarif((), ())["version"]
    '2.1.0'
    """
    driver = {"name": "headwater", "version": __version__, "rules": [_rule(verdict) for verdict in verdicts]}
    index_of = {verdict.code: index for index, verdict in enumerate(verdicts)}
    root = Path.cwd().as_uri() + "/"
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "originalUriBaseIds": {_ROOT: {"uri": root}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, index_of.get(finding.code, -1)) for finding in findings],
            }
        ],
    }


def _rule(verdict: RuleVerdict) -> dict[str, Any]:
    return {"id": verdict.code, "name": verdict.name, "shortDescription": {"text": verdict.name.replace("-", " ")}}


def _result(finding: Finding, rule_index: int) -> dict[str, Any]:
    remedy = f" What helps first: {finding.remedies[0]}" if finding.remedies else ""
    places = [place for line in finding.lines if (place := _physical(line)) is not None]
    logical = [{"fullyQualifiedName": module or "model", "kind": "module"} for module in finding.modules]
    locations = [{"physicalLocation": place, "logicalLocations": logical} for place in places]
    fingerprint = hashlib.sha256("\0".join([finding.code, *finding.modules]).encode()).hexdigest()
    return {
        "ruleId": finding.code,
        **({"ruleIndex": rule_index} if rule_index >= 0 else {}),
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message} {finding.cause}{remedy}"},
        "locations": locations or [{"logicalLocations": logical}],
        "partialFingerprints": {"codeAndModules/v1": fingerprint},
    }


def _physical(line: SourceLine) -> dict[str, Any] | None:
    path = Path(line.file)
    if line.file.startswith("<") or not path.is_file() or line.line < 1:
        return None
    resolved, root = path.resolve(), Path.cwd()
    below = resolved.is_relative_to(root)
    artifact = (
        {"uri": resolved.relative_to(root).as_posix(), "uriBaseId": _ROOT} if below else {"uri": resolved.as_uri()}
    )
    region: dict[str, Any] = {"startLine": line.line}
    if line.code:
        region["snippet"] = {"text": line.code}
    return {"artifactLocation": artifact, "region": region}
