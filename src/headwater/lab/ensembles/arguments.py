"""What `measure_ensemble` takes, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from torch import Tensor

from headwater.lab.ensembles.error import EnsembleError
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
    if spec.family != "mlp":
        return
    if inputs.ndim != 2 or inputs.shape[1] != spec.num_inputs or len(inputs) == 0:
        raise EnsembleError(
            f"expected inputs of shape (samples, {spec.num_inputs}), as num_inputs is {spec.num_inputs}, got {tuple(inputs.shape)}"
        )
    if spec.normalisation == "batch" and len(inputs) == 1:
        raise EnsembleError("expected two or more samples for normalisation 'batch', got 1: use more, or another norm")
