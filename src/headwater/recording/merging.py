"""Several passes through one model as one recording: across micro-batches, ranks or steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from functools import reduce
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from headwater.recording.builder import RecordingBuilder
from headwater.recording.context import Context
from headwater.recording.operation_merging import add_operations
from headwater.recording.recording import KINDS, Recording
from headwater.recording.series_merging import add_series
from headwater.recording.signal import Signal, SignalKind
from headwater.recording.tables import Call, ModuleInfo, ParameterInfo, UnitExtremes

_Key = TypeVar("_Key", bound=Hashable)
_OUTPUT_SIDE = (SignalKind.ACTIVATION, SignalKind.ACTIVATION_GRADIENT)
_WEIGHT_SIDE = (SignalKind.WEIGHT, SignalKind.WEIGHT_GRADIENT, SignalKind.UPDATE)


def merge(*recordings: Recording) -> Recording:
    """One recording of all the passes: associative and commutative, up to the rounding of float64 sums.

    The passes must have run the same modules in the same order. Statistics of a signal are over the elements of all
    passes together: means and RMS are those of the joint batch; a norm over n equal passes is sqrt(n) times that of
    one. A parameter received a gradient if it did in any pass; unit extremes are over all samples. Where shapes
    differ (a smaller last batch), the largest stands for all. Of the context, `loss`, `step` and `seed` are kept
    where all passes agree and None otherwise; devices, versions and notes are joined.

    Raises:
        ValueError: there is nothing to merge, or the recordings are not of the same model and calls; the first
            difference is named.

    >>> from headwater.recording import TensorStats
    >>> def one_pass(value):
    ...     builder = RecordingBuilder()
    ...     root, depth = builder.add_module("", "Linear"), builder.add_call(0)
    ...     _ = builder.add_signal(root, SignalKind.ACTIVATION, TensorStats.from_values([value]), depth=depth)
    ...     return builder.build()
    >>> merge(one_pass(1.0), one_pass(7.0)).signal("activation", 0).rms
    5.0
    """
    if not recordings:
        raise ValueError("expected at least one recording to merge, got none")
    return reduce(_merge_two, recordings)


def _merge_two(a: Recording, b: Recording) -> Recording:
    context = _merge_contexts(a.context, b.context)
    builder = RecordingBuilder()
    index_of = _add_modules(builder, a, b)
    _add_calls(builder, a, b, index_of)
    numbers = _add_signals(builder, a, b, index_of)
    _add_parameters(builder, a, b, index_of)
    _add_units(builder, a, b)
    add_series(builder, a, b, index_of)
    add_operations(builder, a, b, lambda side, tensor: numbers.number((side, tensor)))
    return builder.build(context)


def _add_modules(builder: RecordingBuilder, a: Recording, b: Recording) -> dict[str, int]:
    _check_same(a.modules, b.modules, "module", _module_in_words)
    index_of: dict[str, int] = {}
    for module in a.modules:
        parent = -1 if module.parent is None else index_of[module.parent]
        index_of[module.name] = builder.add_module(
            module.name,
            module.type,
            parent=parent,
            training=module.training,
            is_leaf=module.is_leaf,
            config=module.config,
        )
    return index_of


def _add_calls(builder: RecordingBuilder, a: Recording, b: Recording, index_of: dict[str, int]) -> None:
    _check_same(
        [(call.module, call.parent) for call in a.calls],
        [(call.module, call.parent) for call in b.calls],
        "call",
        lambda call: f"'{call[0]}' called from depth {call[1]}",
    )
    for first, second in zip(a.calls, b.calls, strict=True):
        builder.add_call(index_of[first.module], parent=first.parent, **_merged_flags(first, second))


def _merged_flags(a: Call, b: Call) -> dict[str, bool]:
    return {
        "grad_enabled": a.grad_enabled or b.grad_enabled,
        "input_requires_grad": a.input_requires_grad or b.input_requires_grad,
        "output_requires_grad": a.output_requires_grad or b.output_requires_grad,
        "output_is_floating": a.output_is_floating or b.output_is_floating,
        "finished": a.finished and b.finished,
    }


class _SignalKey(NamedTuple):
    module: int
    depth: int
    kind: int
    item: str

    @property
    def place(self) -> tuple[Any, ...]:
        """Sorts signals as a pass writes them: calls in order, inputs before outputs, weights at the end."""
        numbered_item = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", self.item)]
        if KINDS[self.kind] in _WEIGHT_SIDE:
            return (1, self.module, 0, numbered_item, *self)
        return (0, self.depth, KINDS[self.kind] in _OUTPUT_SIDE, numbered_item, *self)


def _add_signals(builder: RecordingBuilder, a: Recording, b: Recording, index_of: dict[str, int]) -> _TensorNumbers:
    grouped: tuple[dict[_SignalKey, list[Signal]], ...] = ({}, {})
    for recording, signals_of in zip((a, b), grouped, strict=True):
        for signal in recording:
            key = _SignalKey(index_of[signal.module], signal.depth, KINDS.index(signal.kind), signal.item)
            signals_of.setdefault(key, []).append(signal)
    order = _joint_order(list(grouped[0]), list(grouped[1]), lambda key: key.place)
    numbers = _TensorNumbers()
    for key in order:
        numbers.join([(side, s.tensor) for side, signals_of in enumerate(grouped) for s in signals_of.get(key, ())])
    for key in order:
        signals = [signal for signals_of in grouped for signal in signals_of.get(key, ())]
        side = 0 if key in grouped[0] else 1
        builder.add_signal(
            key.module,
            KINDS[key.kind],
            reduce(lambda x, y: x.merge(y), (signal.stats for signal in signals)),
            depth=key.depth,
            item=key.item,
            shape=_largest([signal.shape for signal in signals]),
            dtype=_same_dtype([signal.dtype for signal in signals], f"{signals[0].kind} of '{signals[0].module}'"),
            tensor=numbers.number((side, signals[0].tensor)),
        )
    return numbers


class _TensorNumbers:
    """Which tensors of two recordings are one tensor of the merged recording: those that a chain of signals ties."""

    def __init__(self) -> None:
        self._joined_to: dict[tuple[int, int], tuple[int, int]] = {}
        self._numbers: dict[tuple[int, int], int] = {}

    def join(self, tensors: Sequence[tuple[int, int]]) -> None:
        first = self._representative(tensors[0])
        for tensor in tensors[1:]:
            self._joined_to[self._representative(tensor)] = first

    def number(self, tensor: tuple[int, int]) -> int:
        """The number in the merged recording, given out in the order of asking."""
        return self._numbers.setdefault(self._representative(tensor), len(self._numbers))

    def _representative(self, tensor: tuple[int, int]) -> tuple[int, int]:
        while (next_one := self._joined_to.get(tensor, tensor)) != tensor:
            # Halving the path on the way keeps later look-ups short.
            self._joined_to[tensor] = self._joined_to.get(next_one, next_one)
            tensor = next_one
        return tensor


def _add_parameters(builder: RecordingBuilder, a: Recording, b: Recording, index_of: dict[str, int]) -> None:
    _check_same([p.name for p in a.parameters], [p.name for p in b.parameters], "parameter", repr)
    for first, second in zip(a.parameters, b.parameters, strict=True):
        _add_parameter(builder, index_of[first.module], first, second)


def _add_parameter(builder: RecordingBuilder, module: int, a: ParameterInfo, b: ParameterInfo) -> None:
    builder.add_parameter(
        module,
        a.name,
        shape=_largest([a.shape, b.shape]) if a.initialized == b.initialized else (a if a.initialized else b).shape,
        dtype=_same_dtype([a.dtype, b.dtype], f"parameter '{a.name}'"),
        requires_grad=a.requires_grad or b.requires_grad,
        received_gradient=a.received_gradient or b.received_gradient,
        initialized=a.initialized or b.initialized,
    )


def _add_units(builder: RecordingBuilder, a: Recording, b: Recording) -> None:
    of_a, of_b = ({units.depth: units for units in recording.units} for recording in (a, b))
    for depth in _joint_order(list(of_a), list(of_b), lambda depth: depth):
        found = [units[depth] for units in (of_a, of_b) if depth in units]
        sizes = {len(units.minimum) for units in found}
        if len(sizes) > 1:
            raise ValueError(f"cannot merge: call {depth} has {' and '.join(map(str, sorted(sizes)))} units")
        merged = reduce(_merge_units, found)
        builder.add_units(depth, merged.num_samples, merged.minimum, merged.maximum)


def _merge_units(a: UnitExtremes, b: UnitExtremes) -> UnitExtremes:
    return UnitExtremes(
        depth=a.depth,
        num_samples=a.num_samples + b.num_samples,
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
    )


def _merge_contexts(a: Context, b: Context) -> Context:
    if a.model_type != b.model_type:
        raise ValueError(f"cannot merge recordings of different models: {a.model_type!r} and {b.model_type!r}")
    cotangents = {a.cotangent, b.cotangent} - {"none"}
    if len(cotangents) > 1:
        raise ValueError(f"cannot merge gradients of different cotangents: {' and '.join(sorted(cotangents))}")
    return Context(
        cotangent=next(iter(cotangents), "none"),
        loss=_agreed(a.loss, b.loss),
        step=_agreed(a.step, b.step),
        seed=_agreed(a.seed, b.seed),
        optimizer=_agreed(a.optimizer, b.optimizer) or "",
        devices=tuple(_joint_order(a.devices, b.devices, str)),
        model_type=a.model_type,
        versions=_merge_versions(a.versions, b.versions),
        # The gradients are unscaled already; of the scales they were computed under, the largest is told.
        backward_scale_exponent=max(a.backward_scale_exponent, b.backward_scale_exponent),
        notes=tuple(_joint_order(a.notes, b.notes, str)),
    )


def _merge_versions(a: dict[str, str], b: dict[str, str]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in sorted({*a, *b}):
        seen = {version for found in (a.get(name), b.get(name)) if found for version in found.split(", ")}
        versions[name] = ", ".join(sorted(seen))
    return versions


def _agreed(a: Any, b: Any) -> Any:
    both_nan = a != a and b != b  # noqa: PLR0124 - only NaN differs from itself
    return a if a == b or both_nan else None


def _joint_order(a: Sequence[_Key], b: Sequence[_Key], place: Callable[[_Key], Any]) -> list[_Key]:
    """Both sequences' distinct entries: as they stand where both are the same, else sorted, whichever came first."""
    return list(a) if tuple(a) == tuple(b) else sorted({*a, *b}, key=place)


def _largest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return max(shapes, key=lambda shape: (prod(shape), shape))


def _same_dtype(dtypes: Sequence[str], what: str) -> str:
    if len(set(dtypes)) > 1:
        raise ValueError(f"cannot merge: the {what} was recorded as {' and as '.join(sorted(set(dtypes)))}")
    return dtypes[0]


def _check_same(a: Sequence[Any], b: Sequence[Any], what: str, in_words: Callable[[Any], str]) -> None:
    if tuple(a) == tuple(b):
        return
    position = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    first, second = (in_words(s[position]) if position < len(s) else "nothing" for s in (a, b))
    raise ValueError(
        f"cannot merge recordings of different passes: {what} {position} is {first} in one and {second} in the other"
    )


def _module_in_words(module: ModuleInfo) -> str:
    return f"'{module.name}', a {module.type} in {'training' if module.training else 'evaluation'} mode"
