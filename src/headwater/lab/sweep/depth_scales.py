"""Depth scales from the gains of networks of several depths: one fit for each line of cells that differ in depth alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from headwater.lab.data_frame import Table
from headwater.lab.sweep.statistics import depth_scale_interval, depth_scale_layers, student_quantile

Line = tuple[dict[str, Any], list[dict[str, Any]]]


class Fit(NamedTuple):
    """A slope with its 95 % interval."""

    slope: float
    low: float
    high: float


def lines_of(table: Table, axes: Sequence[str]) -> list[Line]:
    """The cells that are done, grouped by all axes but depth: what the cells of a group share, and their rows by depth.

    >>> table = Table({"width": [8, 8], "depth": [2, 4], "status": ["done", "done"]})
    >>> [(shared, [row["depth"] for row in rows]) for shared, rows in lines_of(table, ["width", "depth"])]
    [({'width': 8}, [2, 4])]
    """
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    names = [name for name in axes if name != "depth"]
    for row in table.rows():
        if row["status"] == "done":
            found.setdefault(tuple(str(row[name]) for name in names), []).append(row)
    groups = [({name: rows[0][name] for name in names}, rows) for rows in found.values()]
    return [(shared, sorted(rows, key=lambda row: row.get("depth", 0))) for shared, rows in groups]


def depth_scale_table(table: Table, axes: Sequence[str]) -> Table:
    """The fitted rate and depth scale of each line of cells, with intervals, beside theory's.

    The rate is the slope of the median gain over the depth: what the first layers and the head cost does not count. With one or
    two depths, it is the median rate of the cells.

    Args:
        table: of the cells.
        axes: of the grid.

    >>> table = Table({"depth": [2, 4, 8], "status": ["done"] * 3, "gain_decades": [-1.0, -3.0, -7.0],
    ...     "rate_decades_per_layer": [-1.0] * 3})
    >>> round(depth_scale_table(table, ["depth"]).rows()[0]["rate_decades_per_layer"], 9)
    -1.0
    """
    rows = []
    for shared, cells in lines_of(table, axes):
        fit = fitted_rate(cells)
        low, high = depth_scale_interval(fit.low, fit.high)
        rows.append(
            {
                **shared,
                "num_depths": len(cells),
                "rate_decades_per_layer": fit.slope,
                "rate_decades_per_layer_low": fit.low,
                "rate_decades_per_layer_high": fit.high,
                "theory_rate_decades_per_layer": theory_rate(cells),
                "depth_scale_layers": depth_scale_layers(fit.slope),
                "depth_scale_layers_low": low,
                "depth_scale_layers_high": high,
                "theory_depth_scale_layers": cells[-1].get("theory_depth_scale_layers", math.nan),
                "theory_correlation_depth_scale_layers": cells[-1].get(
                    "theory_correlation_depth_scale_layers", math.nan
                ),
            }
        )
    return table_of(rows)


def theory_rate(cells: Sequence[Mapping[str, Any]]) -> float:
    """Theory's rate, fitted to its own gains at the depths of the cells as the measured one is to theirs; nan for no theory.

    >>> theory_rate([{"depth": d, "theory_rate_decades_per_layer": -0.5} for d in (4, 8, 16)])
    -0.5
    """
    rates = [row.get("theory_rate_decades_per_layer", math.nan) for row in cells]
    own = [
        {
            "depth": row.get("depth", math.nan),
            "gain_decades": rate * (row.get("depth", math.nan) - 1),
            "rate_decades_per_layer": rate,
        }
        for row, rate in zip(cells, rates, strict=True)
    ]
    return fitted_rate(own).slope


def fitted_rate(cells: Sequence[Mapping[str, Any]]) -> Fit:
    """Decades per layer over cells of several depths: least squares, weighted by 1 / depth, as variances grow with depth.

    The variance of ln |J u|² over random networks is proportional to their depth (Hanin 2018, arXiv 1801.03744).

    >>> fitted_rate([{"depth": d, "gain_decades": -0.5 * d + 1, "rate_decades_per_layer": 0} for d in (4, 8, 16)]).slope
    -0.5
    """
    points = [(row.get("depth", math.nan), row["gain_decades"]) for row in cells]
    x, y = (np.array(values, float) for values in zip(*points, strict=True))
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3:
        rates = [row["rate_decades_per_layer"] for row in cells if not math.isnan(row["rate_decades_per_layer"])]
        last = cells[-1]
        low, high = (last.get(f"rate_decades_per_layer_{end}", math.nan) for end in ("low", "high"))
        return Fit(float(np.median(rates)) if rates else math.nan, low, high)
    weights = 1.0 / x
    centre_x, centre_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = float(weights @ (x - centre_x) ** 2)
    slope = float(weights @ ((x - centre_x) * (y - centre_y))) / spread
    residuals = y - centre_y - slope * (x - centre_x)
    error = math.sqrt(float(weights @ residuals**2) / (len(x) - 2) / spread)
    half = student_quantile(len(x) - 2) * error
    return Fit(slope, slope - half, slope + half)


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of the same columns as a table.

    >>> table_of([{"a": 1}, {"a": 2}]).to_dict()
    {'a': [1, 2]}
    """
    names = list(rows[0]) if rows else []
    return Table({name: [row[name] for row in rows] for name in names})
