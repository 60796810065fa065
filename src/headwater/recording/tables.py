"""The columns of a recording: one structured array each for modules, calls, signals and parameters.

Names, types, shapes and dtypes are indices into string tables, so that a recording of 10,000 modules
is a few megabytes of plain numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

SCHEMA_VERSION = 2
OLDEST_READABLE_SCHEMA = 1  # what came later is empty there

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

SERIES_COLUMNS = np.dtype(
    [
        ("name", "i4"),  # index into `strings`
        ("module", "i4"),
        ("depth", "i4"),  # -1 where it is about the module or a parameter, not about one call
        ("item", "i4"),  # index into `strings`: a parameter's own name, the path of an input or output, or ""
        ("combine", "i4"),  # position in Combine
        ("length", "i8"),
        ("first_value", "i8"),  # offset into the values
    ]
)

OPERATION_COLUMNS = np.dtype(
    [
        ("name", "i4"),  # index into `strings`: a torch function, or an autograd node
        ("line", "i4"),  # index into the lines, -1 where it is not known
        ("depth", "i4"),  # of the innermost call it ran in, -1 outside of the model
        ("gradient_norm", "f8"),  # of what arrived at its outputs; NaN where nothing did
        ("is_finite", "?"),  # what arrived
        ("is_cut", "?"),  # reads what wants a gradient, and returns what does not
    ]
)

EDGE_COLUMNS = np.dtype(
    [
        ("operation", "i4"),
        ("producer", "i4"),  # of what it reads; always an earlier one
        ("gradient_norm", "f8"),  # of what it sends there; NaN where it is the only one that does
    ]
)

LINE_COLUMNS = np.dtype([("file", "i4"), ("line", "i4"), ("code", "i4")])

MADE_BY_COLUMNS = np.dtype([("tensor", "i4"), ("operation", "i4")])


class Combine(StrEnum):
    """What merging does with the same series of two recordings, entry by entry; where one ends, the other goes on."""

    SUM = "sum"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers about one call, module or parameter that are no moments of a tensor: one per time step, unit or setting.

    Args:
        name: what they are, with the unit in the name.
        module: path of the module; "" is the model itself.
        depth: the call, or -1.
        item: a parameter's own name, the path of an input or output, or "".
        combine: how the same series of two passes become one.
        values: float64, shape (length,).
    """

    name: str
    module: str
    depth: int
    item: str
    combine: Combine
    values: np.ndarray


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line of somebody's code: a path as Python knows it, the number from 1, and the text without its indentation."""

    file: str
    line: int
    code: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the pass that the gradient goes through on its way to an observed tensor, or that cuts it off.

    Args:
        index: position in execution order.
        name: the torch function ("torch.sigmoid"), the module that ran, or the autograd node.
        line: of the user's code that called it; None where it is not known.
        depth: of the innermost call it ran in; -1 outside of the model, as in the loss.
        gradient_norm: norm of what arrived at its outputs; NaN where nothing did.
        is_finite: whether that was finite; of one aside of the gradient's way, whether what it returned was.
        is_cut: it read a tensor that wants a gradient and returned one that does not (detach, argmax, anything under
            no_grad); such an operation is on no gradient's way.
    """

    index: int
    name: str
    line: SourceLine | None
    depth: int
    gradient_norm: float
    is_finite: bool
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class OperationEdge:
    """An operation reads what an earlier one made, and sends it a gradient.

    Args:
        operation, producer: their indices.
        gradient_norm: of what it sends; NaN where nobody else reads there, and all of the producer's comes from it.
    """

    operation: int
    producer: int
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """One module of the recorded model."""

    name: str
    type: str
    parent: str | None
    training: bool
    is_leaf: bool
    config: str = ""  # what `extra_repr()` says: "negative_slope=0.01"


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
