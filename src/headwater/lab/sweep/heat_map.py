"""The trainability heat map: depth over sigma_w², with 6 xi drawn over it (Schoenholz et al. 2017, figure 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.lab.sweep.errors import SweepError
from headwater.lab.sweep.result import SweepResult
from headwater.lab.sweep.trainable_depth import DEPTH_SCALES, theory_depth_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

Floats = NDArray[np.float64]

VALUES = {
    "accuracy": "accuracy on the training data (share of samples)",
    "gain_decades": "gain from the output to the first layer (decades)",
}
_LABELS = {
    "weight_variance": "weight variance × fan-in, $\\sigma_w^2$",
    "bias_variance": "bias variance, $\\sigma_b^2$",
    "depth": "depth (layers)",
    "width": "width (units)",
}
_NUM_CURVE_POINTS = 400
_WEAKEST_DECADES = 12.0  # of a gain, in colour: beyond, networks are as good as dead or burst


class HeatMap(NamedTuple):
    """What the figure shows.

    Args:
        x, y: values of the two axes, ascending.
        x_name, y_name: their parameters.
        values: (len(y), len(x)); nan where there is no cell, or nothing was measured.
        value_name: "accuracy" or "gain_decades".
        curve_x, curve_y: 6 depth scales by theory, over x; empty where theory says nothing.
        title: what all cells share.
    """

    x: Floats
    y: Floats
    x_name: str
    y_name: str
    values: Floats
    value_name: str
    curve_x: Floats
    curve_y: Floats
    title: str


def heat_map_data(
    result: SweepResult,
    *,
    x: str = "weight_variance",
    y: str = "depth",
    value: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> HeatMap:
    """The heat map of a sweep over two axes.

    Args:
        result: of the sweep.
        x: parameter to the right.
        y: parameter upwards.
        value: "accuracy" or "gain_decades"; the accuracy if networks were trained, if left out.
        where: a value for each other axis that has several.

    Raises:
        SweepError: an axis is not there or has other than numbers, or several cells are at one place.
    """
    chosen = dict(where or {})
    rows = _chosen_rows(result, (x, y), chosen)
    value = value or ("accuracy" if any(not math.isnan(row["accuracy"]) for row in rows) else "gain_decades")
    if value not in VALUES:
        raise SweepError(f"expected the value of a heat map to be one of {', '.join(VALUES)}, got '{value}'")
    xs, ys = (np.unique([float(row[name]) for row in rows]) for name in (x, y))
    values = np.full((len(ys), len(xs)), math.nan)
    for row in rows:
        values[np.searchsorted(ys, row[y]), np.searchsorted(xs, row[x])] = row[value]
    curve_x, curve_y = _curve(rows, x, xs) if y == "depth" else (np.zeros(0), np.zeros(0))
    return HeatMap(xs, ys, x, y, values, value, curve_x, curve_y, _title(result, rows[0], (x, y), chosen, value))


def plot_heat_map(data: HeatMap, ax: Axes) -> QuadMesh:
    """The heat map on some axes, with a colour bar.

    Accuracy is bright where networks train. Of a gain, its distance from 0 is shown, bright where it is small.

    >>> from matplotlib.figure import Figure
    >>> two, none = np.array([1.0, 2.0]), np.zeros(0)
    >>> data = HeatMap(two, two, "weight_variance", "depth", np.ones((2, 2)), "accuracy", none, none, "")
    >>> ax = Figure().subplots()
    >>> _ = plot_heat_map(data, ax)
    >>> ax.get_ylabel()
    'depth (layers)'
    """
    is_accuracy = data.value_name == "accuracy"
    shown = data.values if is_accuracy else -np.minimum(np.abs(data.values), _WEAKEST_DECADES)
    mesh = ax.pcolormesh(
        _edges(data.x), _edges(data.y), np.ma.masked_invalid(shown), cmap="viridis" if is_accuracy else "cividis"
    )
    mesh.set_rasterized(True)
    ax.set_facecolor("#d9d9d9")  # where nothing was measured
    if is_accuracy:
        mesh.set_clim(0.0, 1.0)
    bar = ax.figure.colorbar(mesh, ax=ax)
    bar.set_label(VALUES[data.value_name] if is_accuracy else "− |gain to the first layer| (decades)")
    _draw_curve(data, ax)
    ax.set_xlabel(_LABELS.get(data.x_name, data.x_name))
    ax.set_ylabel(_LABELS.get(data.y_name, data.y_name))
    ax.set_title(data.title, fontsize=9, loc="left")
    return mesh


def _draw_curve(data: HeatMap, ax: Axes) -> None:
    if not len(data.curve_x):
        return
    import matplotlib.patheffects

    outline = [matplotlib.patheffects.Stroke(linewidth=4.0, foreground="black"), matplotlib.patheffects.Normal()]
    ax.plot(
        data.curve_x, data.curve_y, "--", color="white", linewidth=2.0, path_effects=outline, label="theory: $6\\,\\xi$"
    )
    ax.set_ylim(*(_edges(data.y)[[0, -1]]))
    ax.set_xlim(*(_edges(data.x)[[0, -1]]))
    ax.legend(loc="upper right", fontsize=9, framealpha=0.9, facecolor="#808080", labelcolor="white")


def _chosen_rows(result: SweepResult, axes: Sequence[str], where: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = result.table()
    for name in (*axes, *where):
        if name not in result.parameters:
            raise SweepError(f"the sweep has no parameter '{name}'; it has {', '.join(result.varied(table))}")
    rows = [row for row in table.rows() if row["status"] == "done" and all(row[n] == v for n, v in where.items())]
    rows = [row for row in rows if all(_is_number(row[name]) for name in axes)]
    if not rows:
        raise SweepError(f"no cell of the sweep is done that has numbers for {axes[0]} and {axes[1]}{_among(where)}")
    for name in result.varied(table):
        found = dict.fromkeys(row[name] for row in rows)
        if name not in axes and len(found) > 1:
            raise SweepError(
                f"a heat map of {axes[1]} over {axes[0]} shows one value of '{name}', and the sweep has {', '.join(map(str, found))}: "
                f"choose one"
            )
    return rows


def _among(where: Mapping[str, Any]) -> str:
    return f" where {', '.join(f'{name} = {value}' for name, value in where.items())}" if where else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _curve(rows: Sequence[Mapping[str, Any]], x: str, xs: Floats) -> tuple[Floats, Floats]:
    """6 xi: between the cells too, where theory depends on nothing but a built-in network's variances."""
    if x in ("weight_variance", "bias_variance") and "activation" in rows[0]:
        points = np.linspace(xs[0], xs[-1], _NUM_CURVE_POINTS)
        scales = np.array([_scale_at(rows[0], x, float(point)) for point in points])
    else:
        points = xs
        by_x = {float(row[x]): theory_depth_scale(row) for row in rows}
        scales = np.array([by_x[float(point)] for point in points])
    known = ~np.isnan(scales)
    return points[known], DEPTH_SCALES * scales[known]


def _scale_at(row: Mapping[str, Any], x: str, value: float) -> float:
    from headwater.lab.sweep.prediction import predict
    from headwater.networks import NetworkSpec

    spec = replace(NetworkSpec.parse(row["specification"]), **{x: value})
    prediction = predict(spec, batch=32)
    found = prediction.correlation_depth_scale_layers
    found = prediction.depth_scale_layers if found is None else found
    return math.nan if found is None else found


def _edges(centres: Floats) -> Floats:
    """The borders of cells around values: halfway between neighbours."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.array([1.5 * centres[0] - 0.5 * centres[1], *middle, 1.5 * centres[-1] - 0.5 * centres[-2]])


def _title(
    result: SweepResult, row: Mapping[str, Any], axes: Sequence[str], where: Mapping[str, Any], value: str
) -> str:
    shown = ["activation", "width", "initialisation", "normalisation", "shortcut", "bias_variance", *where]
    words = [
        f"{name.replace('_', ' ')} {row[name]}"
        for name in dict.fromkeys(shown)
        if name in row and name not in axes and row[name] not in ("none", "default") and row[name] == row[name]
    ]
    settings = result.header["settings"]
    trained = f", {settings['train']} steps of SGD" if value == "accuracy" else ""
    return f"{', '.join(words)}{trained}"
