"""Measures rectifiers and squashing functions where they are called: `F.relu(x)` is an activation as `nn.ReLU()` is.

What a module of its own does is measured at the module; here is what the forward of any other module calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headwater.capture import torch_internals
from headwater.capture.masked_rectifiers import MASKED_RECTIFIERS, PositiveMasks, is_zero
from headwater.capture.rectifiers import has_channels_first, unit_extremes
from headwater.capture.softmax_calls import SoftmaxCall, open_entries, softmax_call
from headwater.capture.torch_functions import can_be_read, plain_name

# Series of a call, whose item is the operation's name: "F.relu", and "F.relu 2" for the second one in the same call.
UNIT_MINIMUM, UNIT_MAXIMUM = "unit_minimum", "unit_maximum"
RECTIFIED = "rectified"  # entries of a unit, and the sum of the output's squares
SQUASHED = "squashed"  # sum of the derivative relative to its largest, over how many; sum of the input's squares, over how many
SOFTMAX_NUMBER = "softmax_number"  # the how many-th one of the forward pass that is looked at, from zero

# The rules look at these by their type.
_JUDGED_AS_MODULES = (nn.ReLU, nn.ReLU6, nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid)
_RECTIFYING = ("relu", "relu6", "threshold", "clamp", "clip", "clamp_min", "maximum", "max", *MASKED_RECTIFIERS)
_SQUASHING = ("sigmoid", "expit", "tanh", "softsign", "hardtanh", "hardsigmoid", "softmax")
_ATTENDING = ("scaled_dot_product_attention", "multi_head_attention_forward")


@dataclass(frozen=True, slots=True)
class MeasuredActivation:
    """One call of such a function; still on its device.

    Args:
        units: smallest and largest input of each unit, and how many entries a unit has; None for what is no rectifier.
        output_energy: sum of the output's squares.
        squashed: as in the series; None for what has no upper plateau.
        softmax_number: as in the series; -1 for what is no softmax.
    """

    units: tuple[Tensor, Tensor, int] | None = None
    output_energy: Tensor | None = None
    squashed: Tensor | None = None
    softmax_number: int = -1

    def series(self) -> dict[str, Sequence[float]]:
        """The numbers by the name of their series."""
        found: dict[str, Sequence[float]] = {}
        if self.units is not None and self.output_energy is not None:
            minimum, maximum, num_entries = self.units
            found[UNIT_MINIMUM], found[UNIT_MAXIMUM] = minimum.double().tolist(), maximum.double().tolist()
            found[RECTIFIED] = [float(num_entries), float(self.output_energy)]
        if self.squashed is not None:
            found[SQUASHED] = self.squashed.tolist()
        if self.softmax_number >= 0:
            found[SOFTMAX_NUMBER] = [float(self.softmax_number)]
        return found


Finish = Callable[[Any], MeasuredActivation | None]  # takes what the function returned


@functools.cache
def is_activation(function: Callable[..., Any]) -> bool:
    """Whether it is one of these functions, under any of its names.

    >>> is_activation(torch.relu), is_activation(torch.Tensor.relu_), is_activation(torch.matmul)
    (True, True, False)
    """
    return plain_name(function) in (*_RECTIFYING, *_SQUASHING, *_ATTENDING)


@torch_internals.unseen
def looked_at(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    module: nn.Module,
    producer_of: Callable[[Tensor], nn.Module | None],
    masks: PositiveMasks,
) -> Finish | None:
    """What to give the function's result to, where it is such an activation; it may change its input in place.

    Args:
        function: what is about to be called.
        args: its arguments.
        kwargs: the named ones.
        module: the innermost one that is running.
        producer_of: the module that returned a tensor, which tells where its units are.
        masks: made so far, for rectifiers that are written by hand.
    """
    name = plain_name(function)
    if isinstance(module, _JUDGED_AS_MODULES):
        return None
    if name == "softmax" or name in _ATTENDING:
        call = softmax_call(function, args, kwargs)
        return None if call is None else functools.partial(_softmax, call)
    source = _source(name, args, kwargs, masks)
    if not isinstance(source, Tensor) or not source.requires_grad or not can_be_read(source):
        return None
    low, high = _plateaus(name, args, kwargs)
    if low is None and high is None:
        return None
    channels_first = has_channels_first(source, producer_of(source))
    units = unit_extremes(source, channels_first=channels_first) if low == 0.0 else None
    energy = torch.linalg.vector_norm(source.detach(), dtype=torch.float64).square() if high is not None else None
    return functools.partial(_finished, name, (low, high), units, energy)


def _source(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], masks: PositiveMasks) -> Any:
    """What is rectified or squashed; None where this function does neither."""
    if name in MASKED_RECTIFIERS:
        return masks.rectified(name, args, kwargs)
    source = args[0] if args else kwargs.get("input")
    if name in ("maximum", "max"):
        other = kwargs.get("other", args[1] if len(args) > 1 else None)
        if not isinstance(source, Tensor) or not isinstance(other, Tensor):
            return None  # the largest entry
        larger, zero = (source, other) if source.requires_grad else (other, source)
        same_shape = torch.broadcast_shapes(larger.shape, zero.shape) == larger.shape
        return larger if same_shape and is_zero(zero) else None
    return source


def _plateaus(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The output's smallest and largest value, where it has plateaus there."""
    known = {
        "relu": (0.0, None),
        "relu6": (0.0, 6.0),
        "sigmoid": (0.0, 1.0),
        "expit": (0.0, 1.0),
        "hardsigmoid": (0.0, 1.0),
        "tanh": (-1.0, 1.0),
        "softsign": (-1.0, 1.0),
    }
    if name in known:
        low, high = known[name]
        return (None, high) if name in ("sigmoid", "expit", "hardsigmoid") else (low, high)
    first, second = (*args[1:3], None, None)[:2]
    if name == "threshold":
        bounds = (kwargs.get("threshold", first), kwargs.get("value", second))
        return (0.0, None) if bounds == (0.0, 0.0) else (None, None)
    if name in ("maximum", "max", *MASKED_RECTIFIERS):
        return 0.0, None
    low_name, high_name = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    low, high = _number(kwargs.get(low_name, first)), _number(kwargs.get(high_name, second))
    if name == "hardtanh":
        return -1.0 if low is None else low, 1.0 if high is None else high
    if high is None:
        return (low if low == 0.0 else None), None
    return (low, high) if low is not None and low < high else (None, None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


@torch_internals.unseen
def _finished(
    name: str,
    plateaus: tuple[float | None, float | None],
    units: tuple[Tensor, Tensor, int] | None,
    input_energy: Tensor | None,
    result: Any,
) -> MeasuredActivation | None:
    if not isinstance(result, Tensor) or not can_be_read(result):
        return None
    values = result.detach()
    energy = torch.linalg.vector_norm(values, dtype=torch.float64).square() if units is not None else None
    squashed = None
    if input_energy is not None:
        derivative = _relative_derivative(name, plateaus, values)
        count = torch.full((), float(values.numel()), dtype=torch.float64, device=values.device)
        squashed = torch.stack([derivative.sum(dtype=torch.float64), count, input_energy, count])
    return MeasuredActivation(units, energy, squashed)


def _relative_derivative(name: str, plateaus: tuple[float | None, float | None], y: Tensor) -> Tensor:
    """The derivative as a part of its largest, from the function's value."""
    if name in ("sigmoid", "expit"):
        return 4.0 * y * (1.0 - y)
    if name == "tanh":
        return 1.0 - y * y
    if name == "softsign":
        return (1.0 - y.abs()).square()
    low, high = plateaus
    low = 0.0 if name == "hardsigmoid" else low
    below = y < high if high is not None else torch.ones_like(y, dtype=torch.bool)
    # Units of a ReLU6 that are off are told apart from saturated ones.
    return below if name == "relu6" or low is None else below & (y > low)


@torch_internals.unseen
def _softmax(call: SoftmaxCall, result: Any) -> MeasuredActivation | None:
    """1 - sum of p² over what it is at equal probabilities, 1 - 1/n: the trace of its derivative. Masked entries do not count."""
    dim = call.dim
    scores, made = call.looked_into(result)
    if not isinstance(made, Tensor) or not can_be_read(made):
        return None
    p = made.detach().double()
    is_open = open_entries(scores)
    num_open = is_open.sum(dim)
    rows = num_open > 1
    if not rows.any():
        return None
    mixed = 1.0 - (p * p).sum(dim)
    relative = (mixed / (1.0 - 1.0 / num_open))[rows]
    kept = torch.where(is_open & rows.unsqueeze(dim), scores, 0.0)
    count = torch.stack([rows.sum(), (num_open * rows).sum()]).double()
    energy = torch.linalg.vector_norm(kept, dtype=torch.float64).square()
    return MeasuredActivation(squashed=torch.stack([relative.sum(), count[0], energy, count[1]]))
