"""Whether a recording's tables fit together, so that whoever reads them need not ask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from headwater.recording.recording import KINDS, Recording
from headwater.recording.tables import Combine

_COUNTS = ("numel", "nan_count", "inf_count", "zero_count")
_MOMENTS = ("sum", "sum_abs", "sum_squares", "max_abs")


def inconsistency(recording: Recording) -> str | None:
    """What does not fit in the recording's tables, in a few words; None where all does.

    Recordings that were built or merged fit by construction; one that was read from a file may not.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> builder.add_module("", "Linear", parent=7)
    0
    >>> inconsistency(builder.build())
    'a module has a parent that does not come before it'
    """
    checks = (_in_modules, _in_calls, _in_signals, _in_parameters, _in_units, _in_series, _in_operations)
    return next((problem for check in checks for problem in check(recording)), None)


def _in_modules(recording: Recording) -> Iterator[str]:
    table = recording.module_table
    if len(table) != len(recording.module_names):
        yield "there are not as many module names as modules"
    if len(recording.module_configs) != len(table):
        yield "there are not as many configurations as modules"
    if len(set(recording.module_names)) != len(recording.module_names):
        yield "two modules have the same name"
    if _outside(table["type"], 0, len(recording.strings)):
        yield "a module has no type"
    if _outside(table["parent"], -1, np.arange(len(table))):
        yield "a module has a parent that does not come before it"


def _in_calls(recording: Recording) -> Iterator[str]:
    table = recording.call_table
    if _outside(table["module"], 0, len(recording.module_table)):
        yield "a call has no module"
    if _outside(table["parent"], -1, np.arange(len(table))):
        yield "a call has a caller that does not come before it"
    if not np.array_equal(table["call"], _occurrences(table["module"])):
        yield "the calls of a module are not numbered in order"


def _in_signals(recording: Recording) -> Iterator[str]:
    table = recording.signal_table
    num_calls = len(recording.call_table)
    if _outside(table["module"], 0, len(recording.module_table)):
        yield "a signal has no module"
    if _outside(table["depth"], -1, num_calls):
        yield "a signal has no call"
        return
    called = table[table["depth"] >= 0]
    if not np.array_equal(recording.call_table["module"][called["depth"]], called["module"]):
        yield "a signal has another module than its call"
    if _outside(table["kind"], 0, len(KINDS)):
        yield "a signal is of an unknown kind"
    for column, targets in (("item", recording.strings), ("shape", recording.shapes), ("dtype", recording.strings)):
        if _outside(table[column], 0, len(targets)):
            yield f"a signal has no {column}"
    if _outside(table["exponents"], -1, len(recording.exponents)):
        yield "a signal has no exponent histogram where it should"
    yield from _in_statistics(table)


def _in_statistics(table: np.ndarray) -> Iterator[str]:
    if any(np.any(table[count] < 0) for count in _COUNTS):
        yield "a count is negative"
    # One by one, since their sum could leave the range of int64.
    rest = table["numel"]
    for count in _COUNTS[1:]:
        if np.any(table[count] > rest):
            yield "a tensor has fewer elements than are counted in it"
            return
        rest = rest - table[count]
    if any(np.any(np.isnan(table[moment])) for moment in _MOMENTS):
        yield "a moment is NaN"
    if any(np.any(table[moment] < 0) for moment in _MOMENTS[1:]):
        yield "a moment that cannot be negative is"


def _in_parameters(recording: Recording) -> Iterator[str]:
    table = recording.parameter_table
    if _outside(table["module"], 0, len(recording.module_table)):
        yield "a parameter has no module"
    for column, targets in (("name", recording.strings), ("shape", recording.shapes), ("dtype", recording.strings)):
        if _outside(table[column], 0, len(targets)):
            yield f"a parameter has no {column}"


def _in_units(recording: Recording) -> Iterator[str]:
    table, num_extremes = recording.unit_table, len(recording.unit_minimum)
    if len(recording.unit_maximum) != num_extremes:
        yield "there are not as many largest as smallest units"
    if _outside(table["depth"], 0, len(recording.call_table)):
        yield "units have no call"
    if np.any(table["num_samples"] < 0) or np.any(table["num_units"] < 0):
        yield "a count of units is negative"
    if _outside(table["first_unit"], 0, num_extremes - table["num_units"] + 1):
        yield "units are missing"


def _in_series(recording: Recording) -> Iterator[str]:
    table = recording.series_table
    if _outside(table["module"], 0, len(recording.module_table)):
        yield "a series has no module"
    if _outside(table["depth"], -1, len(recording.call_table)):
        yield "a series has no call"
    if _outside(table["name"], 0, len(recording.strings)) or _outside(table["item"], 0, len(recording.strings)):
        yield "a series has no name or item"
    if _outside(table["combine"], 0, len(Combine)):
        yield "a series cannot be combined"
    if np.any(table["length"] < 0) or _outside(
        table["first_value"], 0, len(recording.series_values) - table["length"] + 1
    ):
        yield "values of a series are missing"


def _in_operations(recording: Recording) -> Iterator[str]:
    lines, operations, edges = recording.line_table, recording.operation_table, recording.edge_table
    if any(_outside(lines[column], 0, len(recording.strings)) for column in ("file", "code")):
        yield "a line has no file or code"
    if _outside(operations["name"], 0, len(recording.strings)) or _outside(operations["line"], -1, len(lines)):
        yield "an operation has no name or line"
    if _outside(operations["depth"], -1, len(recording.call_table)):
        yield "an operation has no call"
    if _outside(edges["operation"], 0, len(operations)) or _outside(edges["producer"], 0, edges["operation"]):
        yield "an operation reads from none that came before it"
    if _outside(recording.made_by_table["operation"], 0, len(operations)):
        yield "a tensor was made by no operation"


def _outside(column: np.ndarray, lowest: int, end: int | np.ndarray) -> bool:
    return bool(np.any((column < lowest) | (column >= end)))


def _occurrences(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each one."""
    order = np.argsort(values, kind="stable")
    _, counts = np.unique(values, return_counts=True)
    occurrences = np.empty(len(values), dtype=np.int64)
    occurrences[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return occurrences
