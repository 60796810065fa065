"""The JSON header of a saved recording: everything that is not an array, in strict JSON, checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from headwater.recording.context import Context
from headwater.recording.exponent_histogram import ExponentHistogram
from headwater.recording.recording import Recording
from headwater.recording.tables import OLDEST_READABLE_SCHEMA, SCHEMA_VERSION

FORMAT = "headwater-recording"
# Binary exponents of float64, with room for the scaling of gradients: a larger one would only make merging slow.
_MAX_EXPONENT = 2**13


class DamagedHeaderError(ValueError):
    """The header is not one of a recording that this version reads; the message continues "the file ..."."""


def encode_header(recording: Recording) -> bytes:
    """The header of a recording as JSON."""
    header = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "module_names": recording.module_names,
        "strings": recording.strings,
        "shapes": recording.shapes,
        "exponents": [[histogram.lowest, histogram.counts] for histogram in recording.exponents],
        "module_configs": recording.module_configs,
        "context": {field.name: _encoded(getattr(recording.context, field.name)) for field in fields(Context)},
    }
    return json.dumps(header, allow_nan=False, separators=(",", ":")).encode()


def decode_header(content: bytes) -> tuple[int, dict[str, Any]]:
    """The schema version, and the fields of a `Recording` that the header holds, by name.

    Raises:
        DamagedHeaderError: the header is not JSON, of another format or schema version, or a field is not what it
            should be.
    """
    try:
        header = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedHeaderError(f"is a damaged recording: its header is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DamagedHeaderError(f"is not a recording: its header does not say format {FORMAT!r}")
    _check_schema_version(header)
    version = header["schema_version"]
    if version == 1:  # written before these were recorded
        header["module_configs"] = [""] * len(_checked(header, "module_names", _is_strings))
        _checked(header, "context", lambda value: isinstance(value, dict)).setdefault("optimizer", "")
    return version, {
        "module_names": tuple(_checked(header, "module_names", _is_strings)),
        "module_configs": tuple(_checked(header, "module_configs", _is_strings)),
        "strings": tuple(_checked(header, "strings", _is_strings)),
        "shapes": tuple(tuple(shape) for shape in _checked(header, "shapes", _is_shapes)),
        "exponents": tuple(
            ExponentHistogram(lowest, tuple(counts)) for lowest, counts in _checked(header, "exponents", _is_histograms)
        ),
        "context": _decoded_context(_checked(header, "context", lambda value: isinstance(value, dict))),
    }


def _check_schema_version(header: dict[str, Any]) -> None:
    version = _checked(header, "schema_version", _is_int)
    if version > SCHEMA_VERSION:
        advice = "upgrade headwater"
    elif version < OLDEST_READABLE_SCHEMA:
        advice = "record again, or read it with the version that saved it"
    else:
        return
    raise DamagedHeaderError(
        f"was saved under schema {version} and this version of headwater reads schema {SCHEMA_VERSION}: {advice}"
    )


def _encoded(value: Any) -> Any:
    # JSON has no NaN and no infinity; as a string they survive every JSON reader.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decoded_context(stored: dict[str, Any]) -> Context:
    values: dict[str, Any] = {name: _checked(stored, name, check) for name, check in _CONTEXT_CHECKS.items()}
    if isinstance(values["loss"], str | int):
        values["loss"] = float(values["loss"])
    values |= {name: tuple(values[name]) for name in ("devices", "notes")}
    return Context(**values)


def _checked(stored: dict[str, Any], name: str, check: Callable[[Any], bool]) -> Any:
    if name not in stored:
        raise DamagedHeaderError(f"is a damaged recording: its header has no {name}")
    if not check(stored[name]):
        raise DamagedHeaderError(f"is a damaged recording: {name} in its header is not what it should be")
    return stored[name]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_count(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _is_string(value: Any) -> bool:
    # A lone surrogate would pass here and fail where the report is written.
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _is_shapes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(shape, list) and all(map(_is_count, shape)) for shape in value)


def _is_histograms(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_histogram, value))


def _is_histogram(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_int(value[0])
        and abs(value[0]) <= _MAX_EXPONENT
        and isinstance(value[1], list)
        and len(value[1]) <= 2 * _MAX_EXPONENT
        and all(map(_is_count, value[1]))
    )


def _is_loss(value: Any) -> bool:
    return value is None or _is_int(value) or isinstance(value, float) or value in ("nan", "inf", "-inf")


def _is_optional_int(value: Any) -> bool:
    return value is None or _is_int(value)


def _is_versions(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_string, [*value, *value.values()]))


_CONTEXT_CHECKS: dict[str, Callable[[Any], bool]] = {
    "cotangent": _is_string,
    "loss": _is_loss,
    "step": _is_optional_int,
    "seed": _is_optional_int,
    "optimizer": _is_string,
    "devices": _is_strings,
    "model_type": _is_string,
    "versions": _is_versions,
    "backward_scale_exponent": _is_int,
    "notes": _is_strings,
}
