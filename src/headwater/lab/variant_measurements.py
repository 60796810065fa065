"""The passes of one variant over all seeds, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from headwater.lab.paired_statistics import log_ratios
from headwater.lab.pass_measurement import LayerMeasurement, PassMeasurement


@dataclass(frozen=True, slots=True, eq=False)
class VariantMeasurements:
    """S seeds, L weight layers in execution order; float64, nan for what was not measured or is not finite.

    Args:
        layers: names.
        gradient_norm: of the activation gradient at each layer's output, shape (S, L).
        gradient_mean_abs: of the same, (S, L).
        input_mean_abs: of what each layer reads, (S, L).
        weight_gradient_mean_abs: the notebook's number, (S, L).
        weight_gradient_norm: (S, L).
        activation_rms: of what each layer returns, (S, L).
        cotangent_norm: of the gradient at the model's output, (S,).
        cotangent_mean_abs: of the same: the loss slope, (S,).
        loss: nan with random cotangents, (S,).
        output_rms: (S,).
    """

    layers: tuple[str, ...]
    gradient_norm: np.ndarray
    gradient_mean_abs: np.ndarray
    input_mean_abs: np.ndarray
    weight_gradient_mean_abs: np.ndarray
    weight_gradient_norm: np.ndarray
    activation_rms: np.ndarray
    cotangent_norm: np.ndarray
    cotangent_mean_abs: np.ndarray
    loss: np.ndarray
    output_rms: np.ndarray

    def __post_init__(self) -> None:
        for name in array_names():
            getattr(self, name).flags.writeable = False

    @property
    def gain_decades(self) -> np.ndarray:
        """log10 of norm(activation gradient) / norm(cotangent), shape (S, L); -inf for a gradient that is exactly zero."""
        gains = log_ratios(self.gradient_norm, self.cotangent_norm[:, None])
        return np.where(gains == np.inf, np.nan, gains)  # of a cotangent of zero there is no gain

    @property
    def relative_depths(self) -> np.ndarray:
        """Where each layer stands, from 0 (next to the input) to 1 (next to the output), shape (L,)."""
        return np.linspace(0.0, 1.0, len(self.layers)) if len(self.layers) > 1 else np.zeros(len(self.layers))

    @property
    def is_the_same_for_all_seeds(self) -> bool:
        """Whether several seeds gave the same numbers, bit for bit: then they are one network."""
        rows = self.weight_gradient_mean_abs
        return len(rows) > 1 and all(np.array_equal(row, rows[0], equal_nan=True) for row in rows)


def array_names() -> tuple[str, ...]:
    """Names of the arrays, those over layers first.

    >>> array_names()[0], array_names()[-1]
    ('gradient_norm', 'output_rms')
    """
    return tuple(field.name for field in fields(VariantMeasurements) if field.name != "layers")


def stacked(passes: Sequence[PassMeasurement]) -> VariantMeasurements:
    """The measurements of several passes of one variant. A layer that one pass lacks is nan there.

    >>> stacked([PassMeasurement((), 1.0, 1.0, 0.5, 2.0)]).loss.tolist()
    [0.5]
    """
    names = all_names([layer.name for layer in measured.layers] for measured in passes)
    by_layer = {
        field: np.array([_row(measured, names, field) for measured in passes], dtype=np.float64).reshape(
            len(passes), len(names)
        )
        for field in LayerMeasurement._fields
        if field != "name"
    }
    by_pass: dict[str, Any] = {
        field: np.array([getattr(measured, field) for measured in passes], dtype=np.float64)
        for field in PassMeasurement._fields
        if field != "layers"
    }
    return VariantMeasurements(layers=tuple(names), **by_layer, **by_pass)


def all_names(lists: Iterable[Sequence[str]]) -> list[str]:
    """The union of several orders: a name that is new stands behind the one that it came after.

    >>> all_names([["a", "c"], ["a", "b", "c"]])
    ['a', 'b', 'c']
    """
    found: list[str] = []
    for names in lists:
        if list(names) == found:  # nearly always
            continue
        position, known = 0, set(found)
        for name in names:
            if name in known:
                position = found.index(name) + 1
            else:
                found.insert(position, name)
                position += 1
    return found


def _row(measured: PassMeasurement, names: Sequence[str], field: str) -> list[float]:
    by_name = {layer.name: getattr(layer, field) for layer in measured.layers}
    return [by_name.get(name, math.nan) for name in names]
