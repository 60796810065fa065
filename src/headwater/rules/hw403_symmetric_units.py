"""HW403: units that start equal and get equal gradients, so that they stay equal for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.functional_layers import parameter_readers
from headwater.analysis.gradient_path import leaf_calls
from headwater.analysis.parametrizations import layer_of
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, Series, SignalKind
from headwater.rules.wording import counted, distinct

_SERIES = "num_symmetric_units"


@dataclass(frozen=True, slots=True, kw_only=True)
class SymmetricUnits:
    """HW403: units of one layer whose incoming weights are equal, and whose gradients are up to rounding: they are one unit.

    No threshold but for severity. The output layer is not asked: a loss may want the same of all outputs. Weights that are equal but get different gradients part at the first step
    (a zero head, LoRA's second factor), and are no finding.

    Args:
        error_fraction: share of a layer's units that have a twin for it to be an error: all of them, as after constant
            initialisation.
    """

    code: ClassVar[str] = "HW403"
    name: ClassVar[str] = "symmetric-units"

    error_fraction: float = 1.0

    def check(self, recording: Recording) -> Verdict:
        """At most one finding for each severity, naming the layers."""
        if not recording.select(SignalKind.WEIGHT_GRADIENT):
            return NotApplicable("no gradient of a parameter was recorded: use diagnose()")
        if not len(recording.operation_table) and not recording.series(_SERIES):
            return NotApplicable("rows of weights were not compared: use diagnose()")
        groups: dict[Severity, list[Series]] = {}
        is_output = _output_layer(recording)
        for series in recording.series(_SERIES):
            if is_output(series):  # where the loss asks all outputs for the same
                continue
            num_units, num_twins, _ = series.values
            is_all = num_twins >= self.error_fraction * num_units
            groups.setdefault(Severity.ERROR if is_all else Severity.WARNING, []).append(series)
        return [_finding(self, severity, found) for severity, found in sorted(groups.items(), reverse=True)]


def _output_layer(recording: Recording) -> Callable[[Series], bool]:
    """Whether a parameter is the output layer's: of the last call with parameters, or the last that functional code reads."""
    owners = {layer_of(parameter.module) for parameter in recording.parameters}
    last = next((call for call in reversed(leaf_calls(recording)) if call.module in owners), None)
    readers = [(max(series.values), series.module, series.item) for series in parameter_readers(recording)]
    latest = max(readers, default=(-1.0, "", ""))
    if not readers or (last is not None and latest[0] < _made_by(recording, last)):
        return lambda series: last is not None and layer_of(series.module) == last.module
    return lambda series: (series.module, series.item) == latest[1:]


def _made_by(recording: Recording, call: Call) -> int:
    """Index of the last operation that ran in a call; -1 where it is several layers of functional code, or none is known."""
    several = {s.module for s in parameter_readers(recording)}
    inside = (o.index for o in recording.operations if o.depth == call.depth)
    return -1 if call.module in several else max(inside, default=-1)


def _finding(rule: SymmetricUnits, severity: Severity, found: list[Series]) -> Finding:
    worst = max(found, key=lambda series: series.values[1] / series.values[0])
    num_units, num_twins, num_groups = (int(value) for value in worst.values)
    name = f"{worst.module}.{worst.item}" if worst.module else worst.item
    others = f" So it is, in part, at {counted(len(found) - 1, 'more layer')}." if len(found) > 1 else ""
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=severity,
        modules=distinct([series.module for series in found]),
        cause=(
            "Their weights started equal (constant initialisation, copied rows) and so do their gradients: every optimiser moves "
            "them alike, and they never part."
        ),
        message=(
            f"{num_twins} of {num_units} units of '{name}' have a twin with the same weights and the same gradient: "
            f"{counted(num_groups, 'group')} of units that count as one each.{others}"
        ),
        evidence={
            "num_units": num_units,
            "num_units_with_a_twin": num_twins,
            "num_groups": num_groups,
            "num_layers": len(found),
            "num_more_layers": len(found) - 1,
        },
        remedies=(
            "Initialise at random: nn.init.kaiming_normal_(weight) or nn.init.xavier_normal_(weight), not nn.init.constant_.",
            "After copying rows (to widen a layer), add a little noise to the copies.",
        ),
    )
