"""A comparison as JSON, and back: strict, readable by anybody, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.lab.compared_variant import ComparedVariant, TrainingBudget
from headwater.lab.learning_curve import LearningCurve
from headwater.lab.variant_measurements import VariantMeasurements, array_names
from headwater.lab.variant_profile import ExpectedGain

if TYPE_CHECKING:
    from headwater.lab.comparison import Comparison

SCHEMA = "headwater.comparison"
SCHEMA_VERSION = 1
_CURVE_NUMBERS = ("loss", "accuracy", "held_out_loss", "held_out_accuracy")
_CURVE_STEPS = ("steps", "diverged_at")


class ComparisonFileError(ValueError):
    """A file cannot be written, or holds no comparison; the message is one sentence."""


def as_data(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain data: the verdict and the statistics first, then all that they were computed from.

    >>> from headwater.lab.comparison import Comparison
    >>> as_data(Comparison((), (), "loss"))["schema"]
    'headwater.comparison'
    """
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "versions": dict(comparison.versions),
        "verdict": comparison.verdict,
        "cotangent": comparison.cotangent,
        "seeds": list(comparison.seeds),
        "training": _plain(comparison.training),
        "ratios": _plain(comparison.ratios),
        "profiles": _plain(comparison.profile),
        "variants": _plain(comparison.variants),
    }


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `Comparison` that plain data says; the statistics are computed again.

    Raises:
        ComparisonFileError: it is none, or of another schema version.

    >>> from headwater.lab.comparison import Comparison
    >>> fields_of(as_data(Comparison((), (3,), "loss")))["seeds"]
    (3,)
    """
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise ComparisonFileError(f'expected a comparison (JSON with "schema": "{SCHEMA}")')
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ComparisonFileError(
            f"expected schema version {SCHEMA_VERSION} of a comparison, got {data.get('schema_version')!r}: "
            "read it with the Headwater that wrote it"
        )
    try:
        return {
            "variants": tuple(_variant(each, len(data["seeds"])) for each in data["variants"]),
            "seeds": tuple(int(seed) for seed in data["seeds"]),
            "cotangent": str(data["cotangent"]),
            "training": None if data["training"] is None else TrainingBudget(**data["training"]),
            "versions": tuple(sorted(data["versions"].items())),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ComparisonFileError(f"the comparison is damaged: {type(error).__name__}: {error}") from error


def write(comparison: Comparison, path: str | Path) -> None:
    """Writes a comparison as JSON.

    Raises:
        ComparisonFileError: the file cannot be written.

    >>> from headwater.lab.comparison import Comparison
    >>> write(Comparison((), (), "loss"), "no such folder/comparison.json")
    Traceback (most recent call last):
    headwater.lab.comparison_file.ComparisonFileError: cannot write 'no such folder/comparison.json': No such file or directory
    """
    text = json.dumps(as_data(comparison), allow_nan=False, indent=1, ensure_ascii=False)
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ComparisonFileError(f"cannot write '{path}': {error.strerror or error}") from None


def read(path: str | Path) -> dict[str, Any]:
    """The fields of the `Comparison` that a file holds.

    Raises:
        ComparisonFileError: there is no such file, or it holds no comparison.

    >>> read("no such file.json")
    Traceback (most recent call last):
    headwater.lab.comparison_file.ComparisonFileError: cannot read 'no such file.json': No such file or directory
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ComparisonFileError(f"cannot read '{path}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON
        raise ComparisonFileError(f"'{path}' is no comparison: {error}") from None
    try:
        return fields_of(data)
    except ComparisonFileError as error:
        raise ComparisonFileError(f"'{path}': {error}") from error.__cause__


def array_bytes(comparison: Comparison) -> tuple[bytes, ...]:
    """The bits of every array, in order: equal where two comparisons measured the same.

    >>> from headwater.lab.comparison import Comparison
    >>> array_bytes(Comparison((), (), "loss"))
    ()
    """
    return tuple(_arrays(comparison))


def _arrays(comparison: Comparison) -> Iterator[bytes]:
    for variant in comparison.variants:
        yield repr(variant.measured.layers).encode()
        yield from (getattr(variant.measured, name).tobytes() for name in array_names())
        if variant.curve is not None:
            yield from (getattr(variant.curve, name).tobytes() for name in (*_CURVE_NUMBERS, *_CURVE_STEPS))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _variant(data: Mapping[str, Any], num_seeds: int) -> ComparedVariant:
    expected, curve, measured = data["expected"], data["curve"], data["measured"]
    layers = tuple(str(layer) for layer in measured["layers"])
    arrays = {name: _numbers(measured[name]) for name in array_names()}
    for name, array in arrays.items():
        if array.shape not in ((num_seeds,), (num_seeds, len(layers))):
            raise ValueError(f"{name} has shape {array.shape}, for {num_seeds} seeds and {len(layers)} layers")
    return ComparedVariant(
        name=str(data["name"]),
        description=str(data["description"]),
        num_parameters=int(data["num_parameters"]),
        expected=None if expected is None else ExpectedGain(**expected),
        measured=VariantMeasurements(layers=layers, **arrays),
        curve=None if curve is None else _curve(curve),
    )


def _curve(data: Mapping[str, Any]) -> LearningCurve:
    numbers = {name: _numbers(data[name]) for name in _CURVE_NUMBERS}
    return LearningCurve(**numbers, **{name: np.array(data[name], dtype=np.int64) for name in _CURVE_STEPS})


def _numbers(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # None becomes nan
