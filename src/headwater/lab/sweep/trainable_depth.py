"""The greatest depth that trains, beside 6 xi."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from headwater.lab.data_frame import Table
from headwater.lab.sweep.depth_scales import fitted_rate, lines_of, table_of, theory_rate
from headwater.lab.sweep.statistics import depth_scale_layers

DEPTH_SCALES = 6.0  # that a network trains to (Schoenholz et al. 2017, arXiv 1611.01232, section 5)
# The gradient's norm changes by this much over 6 of its depth scales: e^(6 / 2).
REACH_DECADES = 0.5 * DEPTH_SCALES / math.log(10.0)


def trainable_depth_table(table: Table, axes: Sequence[str], accuracy: float | None = None) -> Table:
    """The greatest trainable depth of each line of cells that differ in depth alone.

    Where cells were trained, it is the greatest depth up to which every depth of the grid has learned: the median accuracy over the
    seeds is at least halfway from chance to 1. Elsewhere it is the greatest depth up to which the gradient's norm stays within
    1.3 decades of the cotangent's, as it does over 6 of its depth scales.

    Args:
        table: of the cells.
        axes: of the grid.
        accuracy: from which a network has learned, instead.

    >>> table = Table({"depth": [2, 4, 8], "status": ["done"] * 3, "gain_decades": [-0.5, -1.0, -2.0],
    ...     "rate_decades_per_layer": [-0.25] * 3})
    >>> row = trainable_depth_table(table, ["depth"]).rows()[0]
    >>> row["trainable_depth"], row["is_at_least"], row["judged_by"], round(row["six_measured_depth_scales"], 1)
    (4.0, False, 'gradient', 5.2)
    """
    rows = []
    for shared, cells in lines_of(table, axes):
        by_training = any(not math.isnan(row.get("accuracy", math.nan)) for row in cells)
        trains = [_has_learned(row, accuracy) if by_training else _is_reached(row) for row in cells]
        count = trains.index(False) if False in trains else len(cells)
        rate = fitted_rate(cells).slope
        rows.append(
            {
                **shared,
                "trainable_depth": float(cells[count - 1].get("depth", math.nan)) if count else 0.0,
                "is_at_least": count == len(cells),
                "judged_by": "training" if by_training else "gradient",
                "rate_decades_per_layer": rate,
                "theory_rate_decades_per_layer": theory_rate(cells),
                "six_measured_depth_scales": DEPTH_SCALES * depth_scale_layers(rate),
                "six_theory_depth_scales": DEPTH_SCALES * theory_depth_scale(cells[-1]),
            }
        )
    return table_of(rows)


def theory_depth_scale(row: Mapping[str, Any]) -> float:
    """Theory's depth scale of the information in the signal, of the gradient where that is not known; nan for neither.

    >>> theory_depth_scale({"theory_depth_scale_layers": 5.0})
    5.0
    """
    of_correlation = row.get("theory_correlation_depth_scale_layers", math.nan)
    return row.get("theory_depth_scale_layers", math.nan) if math.isnan(of_correlation) else of_correlation


def _has_learned(row: Mapping[str, Any], accuracy: float | None) -> bool:
    chance = 1.0 / row["num_outputs"] if "num_outputs" in row else 0.0
    return row["accuracy"] >= (0.5 * (1.0 + chance) if accuracy is None else accuracy)


def _is_reached(row: Mapping[str, Any]) -> bool:
    return abs(row["gain_decades"]) <= REACH_DECADES
