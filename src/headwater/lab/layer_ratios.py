"""One variant over another, layer by layer and pair by pair, with the factors of the ratio of their weight gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from headwater.lab.paired_statistics import PairedRatio, paired_ratio
from headwater.lab.variant_measurements import VariantMeasurements

FACTORS = ("loss_slope", "backward_gain", "forward_signal", "alignment")


class LayerRatio(NamedTuple):
    """One layer of a variant over its counterpart in the baseline: medians over the pairs of seeds, with intervals.

    Within each seed, weight_gradient = loss_slope × backward_gain × forward_signal × alignment holds exactly
    (`headwater.analysis.RatioFactors`); medians of several seeds need not multiply.

    Args:
        layer: of the variant.
        baseline_layer: its counterpart: the one nearest in relative depth.
        relative_depth: of the layer, from 0 (next to the input) to 1 (next to the output).
        gain: of norm(activation gradient) / norm(cotangent): at equal cotangent, so without the loss.
        weight_gradient: of the mean absolute weight gradients.
        loss_slope: of the mean absolute cotangents.
        backward_gain: of the mean absolute activation gradient over the mean absolute cotangent.
        forward_signal: of the mean absolute inputs.
        alignment: the rest: how the samples of a batch add up or cancel; one for a single sample.
    """

    layer: str
    baseline_layer: str
    relative_depth: float
    gain: PairedRatio
    weight_gradient: PairedRatio
    loss_slope: PairedRatio
    backward_gain: PairedRatio
    forward_signal: PairedRatio
    alignment: PairedRatio


class VariantRatio(NamedTuple):
    """A variant over the baseline.

    Args:
        variant: its name.
        baseline: its name.
        layers: in execution order of the variant.
        first_to_last: of first / last layer's mean absolute weight gradient, within each network.
    """

    variant: str
    baseline: str
    layers: tuple[LayerRatio, ...]
    first_to_last: PairedRatio


def variant_ratio(
    name: str, measured: VariantMeasurements, baseline_name: str, baseline: VariantMeasurements
) -> VariantRatio:
    """The ratio of two variants that were measured under the same seeds.

    >>> from headwater.lab.pass_measurement import LayerMeasurement, PassMeasurement
    >>> from headwater.lab.variant_measurements import stacked
    >>> def one_layer(slope, signal):
    ...     layer = LayerMeasurement("0", slope, slope, signal, slope * signal, slope * signal, 1.0)
    ...     return stacked([PassMeasurement((layer,), slope, slope, 0.5, 1.0)])
    >>> ratio = variant_ratio("steep", one_layer(8.0, 3.0), "flat", one_layer(2.0, 1.0)).layers[0]
    >>> round(ratio.weight_gradient.value, 9), round(ratio.loss_slope.value, 9), round(ratio.forward_signal.value, 9)
    (12.0, 4.0, 3.0)
    """
    pairs = counterparts(len(measured.layers), len(baseline.layers))
    weights, baseline_weights = measured.weight_gradient_mean_abs, baseline.weight_gradient_mean_abs
    return VariantRatio(
        variant=name,
        baseline=baseline_name,
        layers=tuple(_layer_ratio(measured, own, baseline, other) for own, other in enumerate(pairs)),
        first_to_last=paired_ratio(
            weights[:, 0] / _positive(weights[:, -1]), baseline_weights[:, 0] / _positive(baseline_weights[:, -1])
        ),
    )


def counterparts(num_layers: int, num_others: int) -> list[int]:
    """For each of a network's layers, the layer of another network that is nearest in relative depth; of two, the earlier.

    First layers are counterparts, and last ones.

    >>> counterparts(3, 3), counterparts(3, 6), counterparts(5, 2)
    ([0, 1, 2], [0, 2, 5], [0, 0, 0, 1, 1])
    """
    if num_layers == 1:
        return [0]
    steps = num_layers - 1
    # Whole numbers: round half down of index * (num_others - 1) / steps.
    return [(2 * index * (num_others - 1) + steps - 1) // (2 * steps) for index in range(num_layers)]


def _layer_ratio(measured: VariantMeasurements, own: int, baseline: VariantMeasurements, other: int) -> LayerRatio:
    above, below = _parts(measured, own), _parts(baseline, other)
    ratios = {name: paired_ratio(above[name], below[name]) for name in above}
    return LayerRatio(measured.layers[own], baseline.layers[other], float(measured.relative_depths[own]), **ratios)


def _parts(measured: VariantMeasurements, layer: int) -> dict[str, Any]:
    weights, slope = measured.weight_gradient_mean_abs[:, layer], measured.cotangent_mean_abs
    delta, signal = measured.gradient_mean_abs[:, layer], measured.input_mean_abs[:, layer]
    return {
        "gain": measured.gradient_norm[:, layer] / _positive(measured.cotangent_norm),
        "weight_gradient": weights,
        "loss_slope": slope,
        "backward_gain": delta / _positive(slope),
        "forward_signal": signal,
        "alignment": weights / (_positive(delta) * _positive(signal)),
    }


def _positive(values: np.ndarray) -> np.ndarray:
    """The values, with nan for what nothing can be divided by."""
    return np.where(values > 0.0, values, np.nan)
