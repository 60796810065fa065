"""A diagnosis as plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from headwater.analysis import (
    DepthProfile,
    ExpectedRate,
    LossScale,
    ProfileRow,
    TimeSteps,
    Waterfall,
    expected_rate,
    line_costs,
    loss_scale,
    time_steps,
    waterfall,
)
from headwater.findings import Finding, RuleVerdict
from headwater.recording import Recording, TensorStats
from headwater.report.finding_groups import sorted_findings

SCHEMA_VERSION = 1


def as_data(recording: Recording, verdicts: Sequence[RuleVerdict], profile: DepthProfile) -> dict[str, Any]:
    """Context, findings, what each rule said, the profile, the waterfall and the lines of code, as plain data.

    A number that is not finite becomes None: JSON has none (RFC 8259). An exactly zero gradient has the norm 0 and no
    gain in decades.

    >>> from headwater.analysis import depth_profile
    >>> from headwater.recording import RecordingBuilder
    >>> empty = RecordingBuilder().build()
    >>> list(as_data(empty, (), depth_profile(empty)))
    ['schema_version', 'context', 'findings', 'passed', 'not_applicable', 'notes', 'profile', 'waterfall', 'loss_scale', 'expected', 'time_steps', 'lines']
    """
    context = asdict(recording.context)
    notes = context.pop("notes")
    return _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "context": context,
            "findings": [_finding(finding) for finding in sorted_findings(verdicts)],
            "passed": [v.code for v in verdicts if v.not_applicable is None and not v.findings],
            "not_applicable": {v.code: v.not_applicable for v in verdicts if v.not_applicable is not None},
            "notes": notes,
            "profile": [_profile_row(row) for row in profile.rows],
            "waterfall": _waterfall(waterfall(recording)),
            "loss_scale": _loss_scale(loss_scale(recording)),
            "expected": _expected(expected_rate(recording)),
            "time_steps": [_time_steps(steps) for steps in time_steps(recording)],
            "lines": [asdict(cost) for cost in line_costs(recording)],
        }
    )


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.name.lower(),
        "modules": list(finding.modules),
        "message": finding.message,
        "cause": finding.cause,
        "evidence": dict(finding.evidence),
        "remedies": list(finding.remedies),
        "lines": [asdict(line) for line in finding.lines],
    }


def _waterfall(fall: Waterfall) -> dict[str, Any]:
    return {
        "module": fall.module,
        "total_decades": fall.total_decades,
        "gain_decades": fall.gain_decades,
        "reason": fall.reason,
        "parts": [asdict(part) for part in fall.parts],
        "steps": [{k: v for k, v in asdict(step).items() if k != "operations"} for step in fall.steps],
    }


def _loss_scale(scale: LossScale | None) -> dict[str, Any] | None:
    return None if scale is None else {"slope": scale.slope, "sentence": str(scale)}


def _expected(rate: ExpectedRate | None) -> dict[str, Any] | None:
    return None if rate is None else {**asdict(rate), "is_expected": rate.is_expected, "sentence": str(rate)}


def _time_steps(steps: TimeSteps) -> dict[str, Any]:
    return {**asdict(steps), "factor_per_step": steps.factor_per_step}


def _profile_row(row: ProfileRow) -> dict[str, Any]:
    return {
        "module": row.module,
        "type": row.module_type,
        "call": row.call,
        "depth": row.depth,
        "level": row.level,
        "shape": row.shape,
        "activation_rms": _of(row.activation, "rms"),
        "activation_gradient_norm": _of(row.activation_gradient, "norm"),
        "gain_decades": row.gain_decades,
        "backward_gain": row.backward_gain,
        "forward_gain": row.forward_gain,
        "weight_gradient_mean_abs": row.weight_gradient_mean_abs,
        "weight_gradient_norm": _of(row.weight_gradient, "norm"),
    }


def _of(stats: TensorStats | None, name: str) -> float | None:
    return None if stats is None else getattr(stats, name)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
