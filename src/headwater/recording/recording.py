"""The finished, torch-free data of one or more observed passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from headwater.recording.context import Context
from headwater.recording.exponent_histogram import ExponentHistogram
from headwater.recording.signal import Signal, SignalKind
from headwater.recording.tables import (
    Call,
    Combine,
    ModuleInfo,
    Operation,
    OperationEdge,
    ParameterInfo,
    Series,
    SourceLine,
    UnitExtremes,
)
from headwater.recording.tensor_stats import TensorStats, merged_stats

KINDS: tuple[SignalKind, ...] = tuple(SignalKind)
_COMBINES: tuple[Combine, ...] = tuple(Combine)
_Key = TypeVar("_Key", bound=Hashable)
_KIND_INDEX = {kind: index for index, kind in enumerate(KINDS)}


@dataclass(frozen=True, eq=False)
class Recording:
    """Everything measured in one or more passes, in columns. Frozen: made by `RecordingBuilder`, `load` or `merge`.

    Read it through `calls`, `modules`, `parameters`, `select` and `signal`; the arrays are there for code that needs
    whole columns at once.

    Args:
        module_names: `named_modules()` paths; the model itself, "", comes first.
        module_table, call_table, signal_table, parameter_table: see `headwater.recording.tables`.
        unit_table: which rectifier calls have per-unit extremes, and where in the unit arrays.
        unit_minimum, unit_maximum: those extremes, one entry per unit.
        series_table, series_values: further numbers about calls, modules and parameters.
        operation_table, edge_table, line_table, made_by_table: the operations between the modules, where they were recorded.
        module_configs: what each module's `extra_repr()` says.
        strings, shapes, exponents: what the tables' indices point to.
        context: the circumstances.
    """

    module_names: tuple[str, ...]
    module_table: np.ndarray
    call_table: np.ndarray
    signal_table: np.ndarray
    parameter_table: np.ndarray
    unit_table: np.ndarray
    unit_minimum: np.ndarray
    unit_maximum: np.ndarray
    series_table: np.ndarray
    series_values: np.ndarray
    operation_table: np.ndarray
    edge_table: np.ndarray
    line_table: np.ndarray
    made_by_table: np.ndarray
    module_configs: tuple[str, ...]
    strings: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    exponents: tuple[ExponentHistogram, ...]
    context: Context

    def __post_init__(self) -> None:
        for array in vars(self).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    @cached_property
    def modules(self) -> Sequence[ModuleInfo]:
        """Every module of the model, in `named_modules()` order, called or not."""
        return tuple(
            ModuleInfo(
                name=name,
                type=self.strings[type_],
                parent=None if parent < 0 else self.module_names[parent],
                training=training,
                is_leaf=is_leaf,
                config=config,
            )
            for name, (type_, parent, training, is_leaf), config in zip(
                self.module_names, self.module_table.tolist(), self.module_configs, strict=True
            )
        )

    @cached_property
    def calls(self) -> Sequence[Call]:
        """Every call in execution order: `calls[depth].depth == depth`."""
        names, types = self.module_names, self._module_types
        return tuple(
            Call(names[row[0]], self.strings[types[row[0]]], row[1], depth, row[2], *row[3:])
            for depth, row in enumerate(self.call_table.tolist())
        )

    @cached_property
    def parameters(self) -> Sequence[ParameterInfo]:
        """Every parameter of the model, in `named_parameters()` order."""
        return tuple(
            ParameterInfo(self.module_names[m], self.strings[n], self.shapes[s], self.strings[d], *flags)
            for m, n, s, d, *flags in self.parameter_table.tolist()
        )

    @cached_property
    def units(self) -> Sequence[UnitExtremes]:
        """Per-unit pre-activation extremes of the rectifier calls that were measured."""
        return tuple(
            UnitExtremes(
                depth, num_samples, self.unit_minimum[first : first + num], self.unit_maximum[first : first + num]
            )
            for depth, num, num_samples, first in self.unit_table.tolist()
        )

    @cached_property
    def all_series(self) -> Sequence[Series]:
        """Every series, in the order they were added."""
        return tuple(
            Series(
                self.strings[name],
                self.module_names[module],
                depth,
                self.strings[item],
                _COMBINES[combine],
                self.series_values[first : first + length],
            )
            for name, module, depth, item, combine, length, first in self.series_table.tolist()
        )

    @cached_property
    def lines(self) -> Sequence[SourceLine]:
        """The lines of code that operations were called from, each once."""
        strings = self.strings
        return tuple(SourceLine(strings[file], line, strings[code]) for file, line, code in self.line_table.tolist())

    @cached_property
    def operations(self) -> Sequence[Operation]:
        """The operations that the gradient goes through, in execution order; empty where they were not recorded."""
        return tuple(
            Operation(index, self.strings[name], self.lines[line] if line >= 0 else None, *rest)
            for index, (name, line, *rest) in enumerate(self.operation_table.tolist())
        )

    @cached_property
    def operation_edges(self) -> Sequence[OperationEdge]:
        """What the operations send to each other."""
        return tuple(OperationEdge(*row) for row in self.edge_table.tolist())

    @cached_property
    def operation_by_tensor(self) -> dict[int, int]:
        """For each measured tensor, the index of the operation that made it, where it is known."""
        return dict(self.made_by_table.tolist())

    def series(self, name: str, *, module: str | None = None, depth: int | None = None) -> list[Series]:
        """The series of a name, of one module or call if that is given."""
        return [
            series
            for series in self._series_by_name.get(name, ())
            if (module is None or series.module == module) and (depth is None or series.depth == depth)
        ]

    def select(
        self, kind: SignalKind | str | None = None, *, module: str | None = None, depth: int | None = None
    ) -> list[Signal]:
        """The signals of a kind, module or call, in the order they stand in the table.

        Raises:
            ValueError: no such kind.
        """
        if type(kind) is str:
            kind = SignalKind(kind)
        if kind is not None and depth is not None and module is None:
            return [
                self._signal_at(row)
                for row in self._rows_by_kind_and_depth.get((_KIND_INDEX[cast("SignalKind", kind)], depth), ())
            ]
        if module is None and depth is None:
            rows = range(len(self.signal_table)) if kind is None else self._rows_by_kind[cast("SignalKind", kind)]
            return list(map(self._signal_at, rows))
        rows = self._rows_by_depth.get(depth, ()) if depth is not None else self._rows_by_module.get(module or "", ())
        return [s for s in map(self._signal_at, rows) if _matches(s, kind, module, depth)]

    def signal(self, kind: SignalKind | str, depth: int) -> TensorStats | None:
        """Merged statistics of all items (a tuple's tensors) of a kind at one call; None if none was measured."""
        known = self._merged_by_kind_and_depth
        if (kind, depth) not in known:
            known[kind, depth] = merged_stats([signal.stats for signal in self.select(kind, depth=depth)])
        return known[kind, depth]

    def children(self, depth: int) -> Sequence[int]:
        """Depths of the calls that the call at this depth made itself; of the top-level calls for -1."""
        return self._children.get(depth, ())

    def __iter__(self) -> Iterator[Signal]:
        return (self._signal_at(row) for row in range(len(self.signal_table)))

    def __len__(self) -> int:
        return len(self.signal_table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Recording):
            return NotImplemented
        return (
            _is_same(self.context, other.context)
            and self.modules == other.modules
            and self.calls == other.calls
            and self.parameters == other.parameters
            and list(self) == list(other)
            and np.array_equal(self.unit_table, other.unit_table)
            and np.array_equal(self.unit_minimum, other.unit_minimum, equal_nan=True)
            and np.array_equal(self.unit_maximum, other.unit_maximum, equal_nan=True)
            and [_without_values(series) for series in self.all_series]
            == [_without_values(s) for s in other.all_series]
            and np.array_equal(self.series_values, other.series_values, equal_nan=True)
            and list(map(repr, self.operations)) == list(map(repr, other.operations))  # a NaN is like another one
            and list(map(repr, self.operation_edges)) == list(map(repr, other.operation_edges))
            and self.operation_by_tensor == other.operation_by_tensor
        )

    __hash__ = None  # type: ignore[assignment]  # arrays inside: not hashable

    def __repr__(self) -> str:
        return (
            f"<Recording of {self.context.model_type or 'a model'}: {len(self.module_names)} modules,"
            f" {len(self.call_table)} calls, {len(self.signal_table)} signals>"
        )

    @cached_property
    def derived(self) -> dict[Callable[[Recording], Any], Any]:
        """Results of `computed_once` functions."""
        return {}

    @cached_property
    def _series_by_name(self) -> dict[str, list[Series]]:
        found: dict[str, list[Series]] = {}
        for series in self.all_series:
            found.setdefault(series.name, []).append(series)
        return found

    @cached_property
    def _merged_by_kind_and_depth(self) -> dict[tuple[SignalKind | str, int], TensorStats | None]:
        return {}

    @cached_property
    def _signals(self) -> list[Signal | None]:
        return [None] * len(self.signal_table)

    @cached_property
    def _module_types(self) -> list[int]:
        return self.module_table["type"].tolist()

    @cached_property
    def _signal_rows(self) -> list[tuple]:
        return self.signal_table.tolist()

    def _signal_at(self, row: int) -> Signal:
        found = self._signals[row]
        if found is None:
            found = self._signals[row] = self._make_signal(self._signal_rows[row])
        return found

    def _make_signal(self, columns: tuple) -> Signal:
        module, call, depth, kind, item, shape, dtype, tensor, *moments, exponents = columns
        return Signal(
            module=self.module_names[module],
            call=call,
            depth=depth,
            kind=KINDS[kind],
            item=self.strings[item],
            module_type=self.strings[self._module_types[module]],
            shape=self.shapes[shape],
            dtype=self.strings[dtype],
            tensor=tensor,
            stats=TensorStats(*moments, exponents=None if exponents < 0 else self.exponents[exponents]),
        )

    @cached_property
    def _rows_by_kind(self) -> dict[SignalKind, Sequence[int]]:
        kinds = self.signal_table["kind"]
        return {kind: np.flatnonzero(kinds == index).tolist() for kind, index in _KIND_INDEX.items()}

    @cached_property
    def _rows_by_depth(self) -> dict[int, list[int]]:
        return _group(self.signal_table["depth"].tolist())

    @cached_property
    def _rows_by_kind_and_depth(self) -> dict[tuple[int, int], list[int]]:
        return _group(list(zip(self.signal_table["kind"].tolist(), self.signal_table["depth"].tolist(), strict=True)))

    @cached_property
    def _rows_by_module(self) -> dict[str, list[int]]:
        return {self.module_names[m]: rows for m, rows in _group(self.signal_table["module"].tolist()).items()}

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        return _group(self.call_table["parent"].tolist())


def _is_same(a: Context, b: Context) -> bool:
    # A loss that is NaN is the same loss, though NaN is not equal to itself.
    both_nan = a.loss is not None and b.loss is not None and math.isnan(a.loss) and math.isnan(b.loss)
    return replace(a, loss=None) == replace(b, loss=None) if both_nan else a == b


def _without_values(series: Series) -> tuple[str, str, int, str, Combine, int]:
    return (series.name, series.module, series.depth, series.item, series.combine, len(series.values))


def _matches(signal: Signal, kind: str | None, module: str | None, depth: int | None) -> bool:
    return (
        (kind is None or signal.kind == kind)
        and (module is None or signal.module == module)
        and (depth is None or signal.depth == depth)
    )


def _group(keys: list[_Key]) -> dict[_Key, list[int]]:
    groups: dict[_Key, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups
