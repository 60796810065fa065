"""The columns of a sweep's results: one row per cell, the cell's own parameters first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headwater.lab.sweep.grid import Grid, GridError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1

Row = dict[str, Any]

# Medians over the seeds, each with the ends of its 95 % interval in columns of the same name with _low and _high.
MEDIANS = (
    "gain_decades",
    "rate_decades_per_layer",
    "depth_scale_layers",
    "forward_decades_per_layer",
    "output_rms",
    "accuracy",
    "loss",
)
THEORY = (
    "theory_rate_decades_per_layer",
    "theory_depth_scale_layers",
    "theory_correlation_depth_scale_layers",
)
SEEDS = (
    "seed_gain_decades",
    "seed_rate_decades_per_layer",
    "seed_rate_low",
    "seed_rate_high",
    "seed_forward_decades_per_layer",
    "seed_output_rms",
    "seed_accuracy",
    "seed_loss",
)
CODES = ("findings", "information")
# What a second run on the same machine need not repeat.
TIMING = ("seconds",)

_IDENTITY = {"cell": "string", "specification": "string"}
_RESULTS = {
    "status": "string",
    "error": "string",
    "num_seeds": "int32",
    **{f"{name}{end}": "float64" for name in MEDIANS for end in ("", "_low", "_high")},
    **dict.fromkeys(THEORY, "float64"),
    **dict.fromkeys(CODES, "list<string>"),
    "seeds": "list<uint64>",
    **dict.fromkeys(SEEDS, "list<float64>"),
    **dict.fromkeys(TIMING, "float64"),
}
_SPECIFICATION = {
    **dict.fromkeys(("family", "activation", "initialisation", "normalisation", "norm_position", "shortcut"), "string"),
    **dict.fromkeys(("depth", "width", "num_inputs", "num_outputs"), "int64"),
    **dict.fromkeys(("weight_variance", "bias_variance"), "float64"),
}


def columns_of(grid: Grid) -> dict[str, str]:
    """The type of each column of a grid's results, by name.

    Raises:
        GridError: an argument of a factory has the name of a result.

    >>> list(columns_of(Grid({"depth": [1, 2]}, factory=lambda depth: depth)))[:4]
    ['cell', 'specification', 'depth', 'status']
    """
    parameters = _SPECIFICATION if grid.factory is None else _arguments(grid)
    for name in parameters:
        if name in _IDENTITY or name in _RESULTS:
            raise GridError(
                f"the grid's parameter '{name}' has the name of a column of the results; give the factory's argument another one"
            )
    return {**_IDENTITY, **parameters, **_RESULTS}


def numbers_among(columns: Mapping[str, str]) -> list[str]:
    """The columns of one number or text per cell, without what depends on the machine's speed: those of a table.

    >>> numbers_among({"depth": "int64", "seeds": "list<uint64>", "findings": "list<string>", "seconds": "float64"})
    ['depth', 'findings']
    """
    return [
        name for name, kind in columns.items() if name not in TIMING and (not kind.startswith("list") or name in CODES)
    ]


def parameters_among(columns: Sequence[str]) -> list[str]:
    """The columns that are parameters of cells.

    >>> parameters_among(["cell", "depth", "status", "seconds"])
    ['depth']
    """
    return [name for name in columns if name not in _IDENTITY and name not in _RESULTS]


def _arguments(grid: Grid) -> dict[str, str]:
    values = {**{name: (value,) for name, value in grid.base.items()}, **grid.axes}
    return {name: _type_of(of_name) for name, of_name in values.items()}


def _type_of(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return "bool"
    if kinds <= {int}:
        return "int64"
    return "float64" if kinds <= {int, float} else "string"


def arrow_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The schema of a Parquet file with these columns."""
    import pyarrow as pa

    types = {
        "list<string>": pa.list_(pa.string()),
        "list<float64>": pa.list_(pa.float64()),
        "list<uint64>": pa.list_(pa.uint64()),
    }
    return pa.schema([(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in columns.items()])


def arrow_table(rows: Sequence[Row], columns: Mapping[str, str]) -> pa.Table:
    """Rows as a table; what a row lacks is null.

    >>> arrow_table([{"cell": "a"}], {"cell": "string", "seconds": "float64"}).to_pylist()
    [{'cell': 'a', 'seconds': None}]
    """
    import pyarrow as pa

    schema = arrow_schema(columns)
    texts = {name for name, kind in columns.items() if kind == "string"}
    arrays = [
        pa.array(
            [_as_text(row.get(name)) if name in texts else row.get(name) for row in rows], type=schema.field(name).type
        )
        for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)
