"""What `measure_ensemble` takes, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from torch import Tensor

from headwater.lab.ensembles.error import EnsembleError
from headwater.networks.input_check import check_input
from headwater.networks.specification import NetworkSpec


def check_arguments(spec: NetworkSpec, inputs: Tensor, max_extra_bytes: int) -> None:
    """Nothing, if these can be measured.

    Raises:
        EnsembleError: something is not what it should be.
    """
    if not isinstance(spec, NetworkSpec):
        raise EnsembleError(f"expected a NetworkSpec, got a {type(spec).__name__}: NetworkSpec.parse reads a line")
    if not isinstance(max_extra_bytes, Integral) or max_extra_bytes < 1:
        raise EnsembleError(f"expected max_extra_bytes to be a number of bytes from 1, got {max_extra_bytes!r}")
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        arrived = f"one of {inputs.dtype}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise EnsembleError(f"expected a floating-point tensor as inputs, got {arrived}")
    _check_shape(spec, inputs)


def checked_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds as a list.

    Raises:
        EnsembleError: there are none, or one is no whole number.

    >>> checked_seeds(range(3))
    [0, 1, 2]
    """
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise EnsembleError(f"expected one or more seeds, as in range(100), got {seeds!r}")
    found = list(seeds)
    if not found:
        raise EnsembleError("expected one or more seeds, as in range(100), got none")
    for seed in found:
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise EnsembleError(f"expected every seed to be a whole number, got {seed!r}")
    return [int(seed) for seed in found]


def _check_shape(spec: NetworkSpec, inputs: Tensor) -> None:
    try:
        check_input(inputs, _expected_shape(spec))
    except ValueError as error:
        raise EnsembleError(str(error)) from None
    if len(inputs) == 0:
        raise EnsembleError(f"expected one or more samples as inputs, got none in shape {tuple(inputs.shape)}")
    if spec.normalisation == "batch" and len(inputs) == 1 and (inputs.ndim == 2 or max(inputs.shape[2:]) <= 8):
        # Images of up to 8 x 8 end as one position, and a batch of one value has no deviation.
        raise EnsembleError("expected two or more samples for normalisation 'batch', got 1: use more, or another norm")


def _expected_shape(spec: NetworkSpec) -> tuple[str | int, ...]:
    match spec.family:
        case "mlp":
            return ("samples", spec.num_inputs)
        case "conv":
            return ("samples", spec.num_inputs, "height", "width")
        case "transformer":
            return ("samples", "positions", spec.num_inputs)
        case _:
            return ("samples", spec.depth, spec.num_inputs)
