"""How much gradient reaches each layer of one variant: medians over seeds, their intervals, and how far seeds scatter."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from headwater.lab.paired_statistics import Median, PairedRatio, median_interval, paired_ratio
from headwater.lab.variant_measurements import VariantMeasurements

SPREAD = (0.1, 0.9)


class ExpectedGain(NamedTuple):
    """What mean-field theory expects of a variant's stack of like layers, or of like blocks with a shortcut.

    Args:
        sentence: theory beside the measurement of the first seed.
        factor: that the gradient's norm is multiplied by, per layer or block.
        low, high: what one network of this width may show.
        num_units: layers or blocks.
        is_block: whether a unit is a block.
    """

    sentence: str
    factor: float
    low: float
    high: float
    num_units: int
    is_block: bool


class VariantProfile(NamedTuple):
    """One variant over its seeds; L weight layers in execution order.

    Args:
        layers: names.
        relative_depths: from 0 (next to the input) to 1 (next to the output).
        gain_decades: log10 of norm(activation gradient) / norm(cotangent at the output): medians with 95 % intervals.
        spread_decades: the band of the middle 80 % of the seeds' gains.
        weight_gradient_mean_abs: medians with intervals.
        activation_rms: of what the layers return, medians with intervals.
        first_to_last: mean absolute weight gradient of the first layer over that of the last, within each network.
        expected_decades: the gain by mean-field theory, from the layer next to the output backwards; nan beside its stack,
            empty where no stack is recognised.
    """

    layers: tuple[str, ...]
    relative_depths: tuple[float, ...]
    gain_decades: tuple[Median, ...]
    spread_decades: tuple[tuple[float, float], ...]
    weight_gradient_mean_abs: tuple[Median, ...]
    activation_rms: tuple[Median, ...]
    first_to_last: PairedRatio
    expected_decades: tuple[float, ...]


def variant_profile(measured: VariantMeasurements, expected: ExpectedGain | None = None) -> VariantProfile:
    """The profile of a variant.

    >>> from headwater.lab.pass_measurement import LayerMeasurement, PassMeasurement
    >>> from headwater.lab.variant_measurements import stacked
    >>> one = PassMeasurement((LayerMeasurement("0", 0.1, 0.1, 1.0, 0.1, 0.1, 1.0),), 1.0, 1.0, 0.5, 1.0)
    >>> variant_profile(stacked([one])).gain_decades[0].value
    -1.0
    """
    gains = measured.gain_decades
    weights = measured.weight_gradient_mean_abs
    medians = tuple(median_interval(column) for column in gains.T)
    return VariantProfile(
        layers=measured.layers,
        relative_depths=tuple(measured.relative_depths.tolist()),
        gain_decades=medians,
        spread_decades=tuple(_spread(column) for column in gains.T),
        weight_gradient_mean_abs=tuple(median_interval(column) for column in weights.T),
        activation_rms=tuple(median_interval(column) for column in measured.activation_rms.T),
        first_to_last=paired_ratio(weights[:, 0], weights[:, -1]),
        expected_decades=_expected(medians, expected),
    )


def _spread(column: np.ndarray) -> tuple[float, float]:
    known = column[~np.isnan(column)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, SPREAD, method="inverted_cdf")  # values that occurred: -inf has no neighbours
    return float(low), float(high)


def _expected(medians: tuple[Median, ...], expected: ExpectedGain | None) -> tuple[float, ...]:
    """The line of theory, with the measured median of the stack's last layer as its anchor.

    A stack of n layers is n steps between weight layers; one of n blocks with k weight layers each is n times k.
    """
    if expected is None or not expected.num_units:
        return ()
    num_steps = len(medians) - 1
    layers_per_unit = max(1, round(num_steps / expected.num_units)) if expected.is_block else 1
    num_covered = expected.num_units * layers_per_unit
    if not 0 <= num_steps - num_covered <= 2 and not (expected.is_block and num_covered - num_steps == 1):
        return ()  # the stack is not most of the network: where its layers stand is not known here
    anchor = len(medians) - 1 - (1 if expected.is_block else 0)  # the head of a stack of blocks stands behind their sum
    per_layer = math.log10(expected.factor) / layers_per_unit
    line = [medians[anchor].value + per_layer * (anchor - index) for index in range(len(medians))]
    first = max(0, anchor - num_covered)
    return tuple(value if first <= index <= anchor else math.nan for index, value in enumerate(line))
