"""What is measured of an ensemble: one row per seed, one column per layer, plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class EnsembleMeasurements(NamedTuple):
    """Of S networks that differ by their seed alone, in the order of the seeds; L layers in forward order, the output layer last.

    A norm is that of the whole tensor of one network, samples included. Everything is float64, whatever the networks ran in. What
    is not finite in a network is nan or inf here.

    Args:
        layers: names, those of the modules that hold the layers' weights.
        activation_rms: (S, L), the RMS of what each layer returns, with its norm, activation and shortcut.
        gain_decades: (S, L), log10 of norm(activation gradient at the layer's output) / norm(cotangent at the network's output);
            -inf where the gradient is exactly zero. Right for gains far below the smallest and above the largest float.
        weight_gradient_mean_abs: (S, L), the mean absolute value of the weight's gradient.
        weight_gradient_norm: (S, L).
        cotangent_norm: (S,), of what went into the backward pass.
        loss: (S,), nan where the cotangents are not those of a loss.
        output_rms: (S,).
    """

    layers: tuple[str, ...]
    activation_rms: Floats
    gain_decades: Floats
    weight_gradient_mean_abs: Floats
    weight_gradient_norm: Floats
    cotangent_norm: Floats
    loss: Floats
    output_rms: Floats


def joined(parts: Sequence[EnsembleMeasurements]) -> EnsembleMeasurements:
    """The measurements of several groups of seeds as those of one group, in the order given.

    >>> part = EnsembleMeasurements(("0",), *[np.ones((2, 1))] * 4, *[np.ones(2)] * 3)
    >>> joined([part, part]).gain_decades.shape
    (4, 1)
    """
    first, *_ = parts
    columns = zip(*(part[1:] for part in parts), strict=True)
    return EnsembleMeasurements(first.layers, *(np.concatenate(column) for column in columns))
