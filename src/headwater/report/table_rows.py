"""The rows of a report's table: one for each call, and for what a fold stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headwater.analysis import ProfileRow
from headwater.findings import Finding, Severity
from headwater.recording import Recording, SignalKind, TensorStats
from headwater.report.folding import Fold, folded
from headwater.report.numbers import count, number, shape
from headwater.report.printable import listed
from headwater.report.table_row import RowKind, TableRow, codes, worst
from headwater.report.uncalled_rows import folded_uncalled_rows, uncalled_rows


@dataclass(frozen=True, slots=True)
class TableRows:
    """The table as it is shown, and with every call.

    Args:
        folded: what to show.
        all: every call and every module that never ran.
        num_hidden: calls that `folded` does not show one by one.
    """

    folded: tuple[TableRow, ...]
    all: tuple[TableRow, ...]
    num_hidden: int


def table_rows(recording: Recording, profile: Sequence[ProfileRow], findings: Sequence[Finding]) -> TableRows:
    """The rows of a recording's table, in time linear in its calls and modules."""
    by_module: dict[str, list[Finding]] = {}
    for finding in findings:
        for module in finding.modules:
            by_module.setdefault(module, []).append(finding)
    names = _Names(recording)
    calls = [_call_row(row, recording, names, by_module.get(row.module, ())) for row in profile]
    important = {
        index for index, row in enumerate(calls) if row.severity is not None and row.severity >= Severity.WARNING
    }
    entries = folded(profile, important)
    shown = [_fold_row(e, profile, calls, by_module) if isinstance(e, Fold) else calls[e] for e in entries]
    uncalled = uncalled_rows(recording, by_module, level=1 if profile and not profile[0].module else 0)
    return TableRows(
        folded=(*shown, *folded_uncalled_rows(uncalled)),
        all=(*calls, *uncalled),
        num_hidden=sum(e.stop - e.start for e in entries if isinstance(e, Fold)),
    )


class _Names:
    """What rows need to know of the modules and parameters around them."""

    def __init__(self, recording: Recording) -> None:
        trains: dict[str, bool] = {}
        for parameter in recording.parameters:
            trains[parameter.module] = trains.get(parameter.module, False) or parameter.requires_grad
        self.frozen = {module for module, is_trained in trains.items() if not is_trained}
        self.holds_trained = {""}
        for module, is_trained in trains.items():
            path = module if is_trained else ""
            while path not in self.holds_trained:
                self.holds_trained.add(path)
                path = path.rpartition(".")[0]
        self.saw_backward = recording.context.cotangent != "none"
        self._calls = recording.calls

    def relative_to_caller(self, row: ProfileRow) -> tuple[str, str]:
        """The module's path from the module that called it, and its type."""
        number_of_call = f" #{row.call + 1}" if row.call else ""
        if not row.module:
            return f"{row.module_type or 'model'}{number_of_call}", ""
        parent = self._calls[row.depth].parent
        caller = self._calls[parent].module if parent >= 0 else ""
        path = row.module.removeprefix(f"{caller}.") if caller else row.module
        return f"{path}{number_of_call}", row.module_type


def _call_row(row: ProfileRow, recording: Recording, names: _Names, findings: Sequence[Finding]) -> TableRow:
    name, type_ = names.relative_to_caller(row)
    gradient = row.activation_gradient
    return TableRow(
        level=row.level,
        name=name,
        type=type_,
        shape=shape(_shape(row, recording)),
        activation_rms=_number(row.activation, "rms"),
        gradient_norm=_number(gradient, "norm"),
        # The finite rest of a gradient that is not finite may be zero, which does not make it a zero gradient.
        gain_decades=row.gain_decades if gradient is None or gradient.norm or gradient.is_zero else None,
        weight_gradient=number(row.weight_gradient_mean_abs) if row.weight_gradient_mean_abs is not None else "",
        codes=codes(findings),
        remarks=_remarks(row, recording, names),
        severity=worst(findings),
    )


def _number(stats: TensorStats | None, name: str) -> str:
    if stats is None:
        return ""
    if stats.nonfinite_count and not stats.finite_count:
        return number(math.nan if stats.nan_count else math.inf)
    return number(getattr(stats, name))


def _shape(row: ProfileRow, recording: Recording) -> tuple[int, ...] | None:
    """Of the first output; of the next one where a model returns its loss first."""
    if row.shape != ():
        return row.shape
    outputs = recording.select(SignalKind.ACTIVATION, depth=row.depth)
    return next((signal.shape for signal in outputs if signal.shape), row.shape)


def _remarks(row: ProfileRow, recording: Recording, names: _Names) -> tuple[str, ...]:
    call = recording.calls[row.depth]
    gradient = row.activation_gradient
    remarks: list[str] = []
    if not call.finished:
        remarks.append("raised")
    if row.module in names.frozen:
        remarks.append("frozen")
    # Without parameters to train, no gradient is as it should be: a table of positions, say.
    elif names.saw_backward and row.activation is not None and gradient is None and row.module in names.holds_trained:
        remarks.append("no grad")
    if gradient is not None and gradient.is_zero:
        remarks.append("zero")
    if any(stats.nonfinite_count for stats in (row.activation, gradient, row.weight_gradient) if stats is not None):
        remarks.append(_nonfinite(row.activation, gradient, row.weight_gradient))
    return tuple(remarks)


def _nonfinite(*parts: TensorStats | None) -> str:
    return "NaN" if any(stats.nan_count for stats in parts if stats is not None) else "Inf"


def _fold_row(
    fold: Fold, profile: Sequence[ProfileRow], calls: Sequence[TableRow], by_module: Mapping[str, Sequence[Finding]]
) -> TableRow:
    hidden = calls[fold.start : fold.stop]
    gains = [row.gain_decades for row in hidden if row.gain_decades is not None]
    places: dict[str, dict[str, None]] = {}
    for row in profile[fold.start : fold.stop]:
        for finding in by_module.get(row.module, ()):
            if finding.severity >= Severity.WARNING:
                places.setdefault(finding.code, {})[row.module or "the model"] = None
    return TableRow(
        kind=RowKind.FOLD,
        level=calls[fold.start].level,
        name=_fold_text(fold, calls),
        gain_range_decades=(min(gains), max(gains)) if gains else None,
        codes=tuple(dict.fromkeys(code for row in hidden for code in row.codes)),
        remarks=tuple(dict.fromkeys(remark for row in hidden for remark in row.remarks)),
        details=tuple(f"{code} at {listed(list(modules), 5)}" for code, modules in places.items()),
        severity=max((row.severity for row in hidden if row.severity is not None), default=None),
    )


def _fold_text(fold: Fold, calls: Sequence[TableRow]) -> str:
    num_calls = count(fold.stop - fold.start, "call")
    if fold.is_inside:
        return f"{num_calls} inside"
    names = " to ".join(dict.fromkeys((calls[fold.first].name, calls[fold.last].name)))
    if not fold.num_repeats:
        return f"{num_calls} not shown: {names}"
    level = calls[fold.start].level
    siblings = [row for row in calls[fold.start : fold.stop] if row.level == level][: fold.period]
    types = listed(list(dict.fromkeys(row.type for row in siblings)), 3)
    return f"{fold.num_repeats} more, {names}: {types}"
