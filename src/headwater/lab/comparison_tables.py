"""A comparison as tables: one row per layer, and one row per layer and seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.lab.compared_variant import ComparedVariant
from headwater.lab.data_frame import Table, joined
from headwater.lab.layer_ratios import FACTORS, LayerRatio
from headwater.lab.paired_statistics import Median, PairedRatio, paired_ratio
from headwater.lab.variant_measurements import array_names

if TYPE_CHECKING:
    from headwater.lab.comparison import Comparison

_ONE = paired_ratio([], [])  # the baseline has no ratio to itself


def layer_table(comparison: Comparison) -> Table:
    """One row for each layer of each variant, in order; ratios are to the baseline, and nan for the baseline itself.

    >>> from headwater.lab.comparison import Comparison
    >>> layer_table(Comparison((), (), "loss")).column_names
    ()
    """
    return joined([_layers_of(comparison, variant) for variant in comparison.variants])


def sample_table(comparison: Comparison) -> Table:
    """One row for each variant, seed and layer.

    >>> from headwater.lab.comparison import Comparison
    >>> len(sample_table(Comparison((), (), "loss")))
    0
    """
    return joined([_samples_of(comparison, variant) for variant in comparison.variants])


def _layers_of(comparison: Comparison, variant: ComparedVariant) -> Table:
    profile, ratio = comparison.profile[variant.name], comparison.ratios.get(variant.name)
    count = len(profile.layers)
    rows = [None] * count if ratio is None else ratio.layers
    expected = profile.expected_decades or [np.nan] * count
    return Table(
        {
            "variant": [variant.name] * count,
            "layer": profile.layers,
            "index": range(count),
            "relative_depth": profile.relative_depths,
            **_medians("gain_decades", profile.gain_decades),
            "gain_decades_p10": [low for low, _ in profile.spread_decades],
            "gain_decades_p90": [high for _, high in profile.spread_decades],
            "gain_decades_expected": expected,
            **_medians("weight_gradient_mean_abs", profile.weight_gradient_mean_abs),
            **_medians("activation_rms", profile.activation_rms),
            "baseline_layer": ["" if row is None else row.baseline_layer for row in rows],
            **dict(_ratios(rows)),
        }
    )


def _medians(name: str, medians: tuple[Median, ...]) -> dict[str, list[float]]:
    return {
        name: [median.value for median in medians],
        f"{name}_low": [median.low for median in medians],
        f"{name}_high": [median.high for median in medians],
    }


def _ratios(rows: Any) -> Iterator[tuple[str, list[float]]]:
    for name in ("gain", "weight_gradient", *FACTORS):
        ratios = [_ratio(row, name) for row in rows]
        yield f"{name}_ratio", [ratio.value for ratio in ratios]
        yield f"{name}_ratio_low", [ratio.low if ratio.num_pairs else np.nan for ratio in ratios]
        yield f"{name}_ratio_high", [ratio.high if ratio.num_pairs else np.nan for ratio in ratios]
        if name == "gain":
            yield "gain_ratio_share", [ratio.sign_share for ratio in ratios]
            yield "num_pairs", [ratio.num_pairs for ratio in ratios]


def _ratio(row: LayerRatio | None, name: str) -> PairedRatio:
    return _ONE if row is None else getattr(row, name)


def _samples_of(comparison: Comparison, variant: ComparedVariant) -> Table:
    measured, seeds = variant.measured, comparison.seeds
    num_layers = len(measured.layers)
    columns: dict[str, Any] = {
        "variant": [variant.name] * len(seeds) * num_layers,
        "seed": np.repeat(np.array(seeds, dtype=np.int64), num_layers),
        "layer": list(measured.layers) * len(seeds),
        "index": list(range(num_layers)) * len(seeds),
        "gain_decades": measured.gain_decades.ravel(),
    }
    for name in array_names():
        values = getattr(measured, name)
        columns[name] = values.ravel() if values.ndim == 2 else np.repeat(values, num_layers)
    return Table(columns)
