"""The columns of a recording: one structured array each for modules, calls, signals and parameters.

Names, types, shapes and dtypes are indices into string tables, so that a recording of 10,000 modules
is a few megabytes of plain numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCHEMA_VERSION = 1

MODULE_COLUMNS = np.dtype(
    [
        ("type", "i4"),  # index into `strings`
        ("parent", "i4"),  # module index, -1 for the model itself
        ("training", "?"),
        ("is_leaf", "?"),  # has no child modules
    ]
)

CALL_COLUMNS = np.dtype(
    [
        ("module", "i4"),
        ("call", "i4"),
        ("parent", "i4"),  # depth of the calling call, -1 for none
        ("grad_enabled", "?"),  # autograd was on when the call began
        ("input_requires_grad", "?"),  # some input tensor did
        ("output_requires_grad", "?"),  # some output tensor does
        ("output_is_floating", "?"),  # some output tensor is floating point or complex
        ("finished", "?"),  # the call returned (it did not raise)
    ]
)

SIGNAL_COLUMNS = np.dtype(
    [
        ("module", "i4"),
        ("call", "i4"),
        ("depth", "i4"),
        ("kind", "i4"),  # position in SignalKind
        ("item", "i4"),  # index into `strings`
        ("shape", "i4"),  # index into `shapes`
        ("dtype", "i4"),  # index into `strings`
        ("tensor", "i4"),
        ("numel", "i8"),
        ("nan_count", "i8"),
        ("inf_count", "i8"),
        ("zero_count", "i8"),
        ("sum", "f8"),
        ("sum_abs", "f8"),
        ("sum_squares", "f8"),
        ("max_abs", "f8"),
        ("scale_exponent", "i4"),
        ("exponents", "i4"),  # index into `exponents`, -1 for none
    ]
)

PARAMETER_COLUMNS = np.dtype(
    [
        ("module", "i4"),  # the first module that owns it
        ("name", "i4"),  # index into `strings`: full name in named_parameters()
        ("shape", "i4"),
        ("dtype", "i4"),
        ("requires_grad", "?"),
        ("received_gradient", "?"),  # a gradient arrived in the recorded backward passes
        ("initialized", "?"),  # False for a lazy parameter that never got its shape
    ]
)

UNIT_COLUMNS = np.dtype(
    [
        ("depth", "i4"),
        ("num_units", "i8"),
        ("num_samples", "i8"),  # entries per unit: batch times positions
        ("first_unit", "i8"),  # offset into the unit arrays
    ]
)


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """One module of the recorded model."""

    name: str
    type: str
    parent: str | None
    training: bool
    is_leaf: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One run of one module. `depth` is its position in execution order, a caller before what it calls."""

    module: str
    module_type: str
    call: int
    depth: int
    parent: int
    grad_enabled: bool
    input_requires_grad: bool
    output_requires_grad: bool
    output_is_floating: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter, whether or not a gradient reached it. A shared one appears once, under its first name."""

    module: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool
    received_gradient: bool
    initialized: bool


@dataclass(frozen=True, slots=True)
class UnitExtremes:
    """Smallest and largest pre-activation of each unit (feature or channel) of a rectifier's call.

    Args:
        depth: which call.
        num_samples: entries per unit that the extremes are taken over (batch times positions).
        minimum: smallest value per unit, shape (num_units,).
        maximum: largest value per unit, shape (num_units,).
    """

    depth: int
    num_samples: int
    minimum: np.ndarray
    maximum: np.ndarray
