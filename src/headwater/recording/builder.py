"""Puts a recording together row by row; the only writer of the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from headwater.recording.context import Context
from headwater.recording.exponent_histogram import ExponentHistogram
from headwater.recording.recording import KINDS, Recording
from headwater.recording.signal import SignalKind
from headwater.recording.tables import (
    CALL_COLUMNS,
    EDGE_COLUMNS,
    LINE_COLUMNS,
    MADE_BY_COLUMNS,
    MODULE_COLUMNS,
    OPERATION_COLUMNS,
    PARAMETER_COLUMNS,
    SERIES_COLUMNS,
    SIGNAL_COLUMNS,
    UNIT_COLUMNS,
    Combine,
    SourceLine,
)
from headwater.recording.tensor_stats import TensorStats

_COMBINE_NUMBERS = {combine: number for number, combine in enumerate(Combine)}
_TENSOR = (SIGNAL_COLUMNS.names or ()).index("tensor")
_KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


class RecordingBuilder:
    """Collects modules, calls, signals and parameters, then `build`s a frozen `Recording`.

    >>> builder = RecordingBuilder()
    >>> root = builder.add_module("", "Linear")
    >>> depth = builder.add_call(root)
    >>> builder.add_signal(root, SignalKind.ACTIVATION, TensorStats.from_values([3.0, 4.0]), depth=depth)
    0
    >>> builder.build().signal("activation", depth).norm
    5.0
    """

    def __init__(self) -> None:
        self._module_names: list[str] = []
        self._module_configs: list[str] = []
        self._modules: list[tuple] = []
        self._calls: list[tuple] = []
        self._num_calls_of: dict[int, int] = {}
        self._signals: list[tuple] = []
        self._parameters: list[tuple] = []
        self._units: list[tuple] = []
        self._unit_minimum: list[np.ndarray] = []
        self._unit_maximum: list[np.ndarray] = []
        self._num_units = 0
        self._series: list[tuple] = []
        self._series_values: list[np.ndarray] = []
        self._num_series_values = 0
        self._operations: list[tuple] = []
        self._edges: list[tuple] = []
        self._lines: dict[tuple[int, int, int], int] = {}
        self._made_by: list[tuple] = []
        self._num_tensors = 0
        self._strings: dict[str, int] = {}
        self._shapes: dict[tuple[int, ...], int] = {}
        self._exponents: list[ExponentHistogram] = []

    @classmethod
    def continuing(cls, recording: Recording) -> RecordingBuilder:
        """A builder that holds all that a recording holds; the recording stays as it is."""
        builder = cls()
        builder._module_names = list(recording.module_names)
        builder._module_configs = list(recording.module_configs)
        builder._modules = recording.module_table.tolist()
        builder._calls = recording.call_table.tolist()
        for module, *_ in builder._calls:
            builder._num_calls_of[module] = builder._num_calls_of.get(module, 0) + 1
        builder._signals = recording.signal_table.tolist()
        builder._num_tensors = max((row[_TENSOR] for row in builder._signals), default=-1) + 1
        builder._parameters = recording.parameter_table.tolist()
        builder._units = recording.unit_table.tolist()
        builder._unit_minimum, builder._unit_maximum = [recording.unit_minimum], [recording.unit_maximum]
        builder._num_units = len(recording.unit_minimum)
        builder._series = recording.series_table.tolist()
        builder._series_values = [recording.series_values]
        builder._num_series_values = len(recording.series_values)
        builder._operations = recording.operation_table.tolist()
        builder._edges = recording.edge_table.tolist()
        builder._lines = {line: number for number, line in enumerate(recording.line_table.tolist())}
        builder._made_by = recording.made_by_table.tolist()
        builder._strings = {text: number for number, text in enumerate(recording.strings)}
        builder._shapes = {shape: number for number, shape in enumerate(recording.shapes)}
        builder._exponents = list(recording.exponents)
        return builder

    def add_module(
        self,
        name: str,
        type: str,
        *,
        parent: int = -1,
        training: bool = True,
        is_leaf: bool = True,
        config: str = "",
    ) -> int:
        """Adds a module and returns its index; the model itself, named "", must come first."""
        self._module_names.append(name)
        self._module_configs.append(config)
        self._modules.append((self._string(type), parent, training, is_leaf))
        return len(self._modules) - 1

    def add_call(
        self,
        module: int,
        *,
        parent: int = -1,
        grad_enabled: bool = True,
        input_requires_grad: bool = False,
        output_requires_grad: bool = True,
        output_is_floating: bool = True,
        finished: bool = True,
    ) -> int:
        """Adds the next call in execution order and returns its depth."""
        call = self._num_calls_of.get(module, 0)
        self._num_calls_of[module] = call + 1
        flags = (grad_enabled, input_requires_grad, output_requires_grad, output_is_floating, finished)
        self._calls.append((module, call, parent, *flags))
        return len(self._calls) - 1

    def add_signal(
        self,
        module: int,
        kind: SignalKind,
        stats: TensorStats,
        *,
        depth: int = -1,
        item: str = "",
        shape: tuple[int, ...] | None = None,
        dtype: str = "float32",
        tensor: int | None = None,
    ) -> int:
        """Adds one measured tensor and returns its tensor number: `tensor`, or a new one."""
        if tensor is None:
            tensor = self._num_tensors
        if tensor >= self._num_tensors:
            self._num_tensors = tensor + 1
        exponents = -1
        if stats.exponents is not None:
            self._exponents.append(stats.exponents)
            exponents = len(self._exponents) - 1
        self._signals.append(
            (
                module,
                self._calls[depth][1] if depth >= 0 else 0,
                depth,
                _KIND_NUMBERS[kind],
                self._string(item),
                self._shape((stats.numel,) if shape is None else shape),
                self._string(dtype),
                tensor,
                stats.numel,
                stats.nan_count,
                stats.inf_count,
                stats.zero_count,
                stats.sum,
                stats.sum_abs,
                stats.sum_squares,
                stats.max_abs,
                stats.scale_exponent,
                exponents,
            )
        )
        return tensor

    def add_parameter(
        self,
        module: int,
        name: str,
        *,
        shape: tuple[int, ...] = (1,),
        dtype: str = "float32",
        requires_grad: bool = True,
        received_gradient: bool = True,
        initialized: bool = True,
    ) -> None:
        """Adds a parameter by its full name."""
        flags = (requires_grad, received_gradient, initialized)
        self._parameters.append((module, self._string(name), self._shape(shape), self._string(dtype), *flags))

    def add_units(
        self,
        depth: int,
        num_samples: int,
        minimum: Sequence[float] | np.ndarray,
        maximum: Sequence[float] | np.ndarray,
    ) -> None:
        """Adds the per-unit pre-activation extremes of one rectifier call."""
        self._units.append((depth, len(minimum), num_samples, self._num_units))
        self._unit_minimum.append(np.asarray(minimum, dtype=np.float64))
        self._unit_maximum.append(np.asarray(maximum, dtype=np.float64))
        self._num_units += len(minimum)

    def add_series(
        self,
        name: str,
        values: Sequence[float] | np.ndarray,
        *,
        module: int = 0,
        depth: int = -1,
        item: str = "",
        combine: Combine = Combine.SUM,
    ) -> None:
        """Adds numbers about a call (`depth`), a module or one of its parameters (`item`)."""
        numbers = np.asarray(values, dtype=np.float64).reshape(-1)
        place = (module, depth, self._string(item), _COMBINE_NUMBERS[combine])
        self._series.append((self._string(name), *place, len(numbers), self._num_series_values))
        self._series_values.append(numbers)
        self._num_series_values += len(numbers)

    def add_operation(
        self,
        name: str,
        *,
        line: SourceLine | None = None,
        depth: int = -1,
        gradient_norm: float = math.nan,
        is_finite: bool = True,
        is_cut: bool = False,
    ) -> int:
        """Adds the next operation in execution order and returns its index."""
        number = -1
        if line is not None:
            key = (self._string(line.file), line.line, self._string(line.code))
            number = self._lines.setdefault(key, len(self._lines))
        self._operations.append((self._string(name), number, depth, gradient_norm, is_finite, is_cut))
        return len(self._operations) - 1

    def add_operation_edge(self, operation: int, producer: int, gradient_norm: float = math.nan) -> None:
        """Adds what an operation sends to an earlier one."""
        self._edges.append((operation, producer, gradient_norm))

    def add_made_by(self, tensor: int, operation: int) -> None:
        """Notes which operation made a measured tensor."""
        self._made_by.append((tensor, operation))

    def build(self, context: Context | None = None) -> Recording:
        """The finished recording."""
        return Recording(
            module_names=tuple(self._module_names),
            module_table=np.array(self._modules, dtype=MODULE_COLUMNS),
            call_table=np.array(self._calls, dtype=CALL_COLUMNS),
            signal_table=np.array(self._signals, dtype=SIGNAL_COLUMNS),
            parameter_table=np.array(self._parameters, dtype=PARAMETER_COLUMNS),
            unit_table=np.array(self._units, dtype=UNIT_COLUMNS),
            unit_minimum=np.concatenate([np.empty(0), *self._unit_minimum]),
            unit_maximum=np.concatenate([np.empty(0), *self._unit_maximum]),
            series_table=np.array(self._series, dtype=SERIES_COLUMNS),
            series_values=np.concatenate([np.empty(0), *self._series_values]),
            operation_table=np.array(self._operations, dtype=OPERATION_COLUMNS),
            edge_table=np.array(self._edges, dtype=EDGE_COLUMNS),
            line_table=np.array(list(self._lines), dtype=LINE_COLUMNS),
            made_by_table=np.array(self._made_by, dtype=MADE_BY_COLUMNS),
            module_configs=tuple(self._module_configs),
            strings=tuple(self._strings),
            shapes=tuple(self._shapes),
            exponents=tuple(self._exponents),
            context=context or Context(),
        )

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _shape(self, shape: tuple[int, ...]) -> int:
        return self._shapes.setdefault(tuple(shape), len(self._shapes))
