"""The result of a sweep: its data set, read when something is asked of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headwater.lab.data_frame import Table
from headwater.lab.sweep.columns import CODES, SCHEMA_VERSION, SEEDS, Row, arrow_table, numbers_among, parameters_among
from headwater.lab.sweep.data_set import JOURNAL, read_header
from headwater.lab.sweep.depth_scales import depth_scale_table
from headwater.lab.sweep.errors import SweepError, SweepWarning
from headwater.lab.sweep.journal import read_journal
from headwater.lab.sweep.parts import DamagedPartError, part_paths, read_part
from headwater.lab.sweep.statistics import depth_scale_layers
from headwater.lab.sweep.trainable_depth import trainable_depth_table

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class SweepResult:
    """What a sweep's data set holds now; made by `sweep` and `read_sweep`. Nothing of it is kept in memory.

    Args:
        folder: of the data set.

    Raises:
        SweepError: the folder holds no sweep, or one of another schema version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        header, damaged = read_header(folder) if folder.is_dir() else (None, [])
        if header is None:
            raise SweepError(f"expected the folder of a sweep, got '{folder}', which holds none")
        if header["schema_version"] != SCHEMA_VERSION:
            raise SweepError(
                f"'{folder}' holds results of schema version {header['schema_version']}, and this headwater reads {SCHEMA_VERSION}; read "
                "it with the headwater that wrote it"
            )
        for sentence in damaged:
            warnings.warn(sentence, SweepWarning, stacklevel=3)
        self.header: Mapping[str, Any] = header

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """The values of the grid's axes, of the last run."""
        return self.header["grid"]["axes"]

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, part by part, in the order in which they were finished; of a cell that was measured again, the last.

        A part that is damaged is named in a `SweepWarning` and left out.

        Args:
            columns: which ones; all if left out.
        """
        superseded = self._superseded
        for name, table in self._parts(columns):
            positions = superseded.get(name)
            yield table if positions is None else table.take(np.setdiff1d(np.arange(len(table)), positions))

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one table of Arrow, in the order of the axes' values.

        Args:
            columns: which ones; all if left out.
        """
        import pyarrow as pa

        wanted = None if columns is None else list(dict.fromkeys([*columns, *self.axes, "specification"]))
        found = list(self.batches(wanted)) or [arrow_table([], self._columns)]
        table = pa.concat_tables([part.replace_schema_metadata(None) for part in found], promote_options="permissive")
        table = table.sort_by([(name, "ascending") for name in (*self.axes, "specification")])
        return table if columns is None else table.select([name for name in columns if name in table.column_names])

    def table(self) -> Table:
        """One row per cell: parameters, medians over the seeds with intervals, theory, codes. The same on every engine."""
        return _plain(self.to_arrow(numbers_among(self._columns)))

    def seeds(self) -> Table:
        """One row per cell and seed: parameters, and what was measured of this network."""
        names = ["specification", *self.parameters]
        arrow = self.to_arrow([*names, "seeds", *SEEDS]).to_pydict()
        columns: dict[str, list[Any]] = {
            name: [] for name in (*names, "seed", *(n.removeprefix("seed_") for n in SEEDS))
        }
        for index, seeds in enumerate(arrow["seeds"]):
            count = len(seeds or ())
            for name in names:
                columns[name] += [arrow[name][index]] * count
            columns["seed"] += seeds or []
            for name in SEEDS:
                columns[name.removeprefix("seed_")] += arrow[name][index] or [np.nan] * count
        rate = columns["rate_decades_per_layer"]
        columns["depth_scale_layers"] = [depth_scale_layers(np.nan if each is None else each) for each in rate]
        return Table({name: _filled(values) for name, values in columns.items()})

    def failures(self) -> dict[str, str]:
        """The sentence of each cell that failed, by its specification."""
        arrow = self.to_arrow(["specification", "status", "error"]).to_pylist()
        return {row["specification"]: row["error"] for row in arrow if row["status"] == "failed"}

    def depth_scales(self) -> Table:
        """The fitted depth scale of each line of cells that differ in nothing but depth, beside theory's."""
        table = self.table()
        return depth_scale_table(table, self.varied(table))

    def trainable_depth(self, accuracy: float | None = None) -> Table:
        """The greatest trainable depth of each line of cells that differ in nothing but depth, beside 6 xi.

        Args:
            accuracy: from which a network has learned; halfway from chance to 1 if left out.
        """
        table = self.table()
        return trainable_depth_table(table, self.varied(table), accuracy)

    def varied(self, table: Table) -> list[str]:
        """The grid's axes, and other parameters in which the rows differ: earlier runs into the folder may have had another base.

        Args:
            table: of the cells.
        """
        values = table.to_dict()
        others = [name for name in self.parameters if name not in self.axes and len(set(map(str, values[name]))) > 1]
        return [*self.axes, *others]

    @property
    def parameters(self) -> list[str]:
        """The columns that are parameters of cells."""
        return parameters_among(list(self._columns))

    def to_pandas(self) -> pd.DataFrame:
        """`table` as a data frame of pandas."""
        return self.table().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """`table` as a data frame of polars."""
        return self.table().to_polars()

    def to_parquet(self, path: str | Path) -> None:
        """Writes `table` into one Parquet file."""
        self.table().to_parquet(path)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table().__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return sum(len(table) for table in self.batches(["cell"]))

    def __repr__(self) -> str:
        return f"<SweepResult of {len(self)} cells in '{self.folder}'>"

    @property
    def _columns(self) -> Mapping[str, str]:
        return self.header["columns"]

    def _parts(self, columns: Sequence[str] | None) -> Iterator[tuple[str, pa.Table]]:
        for path in part_paths(self.folder):
            try:
                yield path.name, read_part(path, columns)
            except DamagedPartError as error:
                warnings.warn(
                    f"{error}; its cells are left out: the same sweep runs them again", SweepWarning, stacklevel=2
                )
        rows: list[Row] = read_journal(self.folder / JOURNAL)[0]  # of a sweep that was killed, or still runs
        if rows:
            table = arrow_table(rows, self._columns)
            yield JOURNAL, table if columns is None else table.select([c for c in columns if c in table.column_names])

    @property
    def _superseded(self) -> Mapping[str, NDArray[np.intp]]:
        """Positions, by part, of the rows whose cell was measured again later."""
        names, lengths, cells = [], [], [np.zeros(0, np.uint64)]
        with warnings.catch_warnings(action="ignore", category=SweepWarning):  # who reads the rows names them
            for name, table in self._parts(["cell"]):
                names.append(name)
                lengths.append(len(table))
                cells.append(np.array([int(cell, 16) for cell in table["cell"].to_pylist()], np.uint64))
        keys = np.concatenate(cells)
        _, from_end = np.unique(keys[::-1], return_index=True)
        old = np.ones(len(keys), bool)
        old[len(keys) - 1 - from_end] = False
        begins = np.cumsum([0, *lengths])
        parts = {name: np.flatnonzero(old[a:b]) for name, a, b in zip(names, begins, begins[1:], strict=False)}
        return {name: positions for name, positions in parts.items() if len(positions)}


def read_sweep(folder: str | Path) -> SweepResult:
    """The result in the folder of a sweep, whether it has ended, was stopped or still runs.

    Raises:
        SweepError: the folder holds no sweep, or one of another schema version.

    >>> read_sweep("no such folder")
    Traceback (most recent call last):
    headwater.lab.sweep.errors.SweepError: expected the folder of a sweep, got 'no such folder', which holds none
    """
    return SweepResult(Path(folder))


def _plain(arrow: pa.Table) -> Table:
    columns = arrow.to_pydict()
    for name in CODES:
        if name in columns:
            columns[name] = [" ".join(codes or ()) for codes in columns[name]]
    return Table({name: _filled(values) for name, values in columns.items()})


def _filled(values: list[Any]) -> list[Any]:
    """Nulls as `Table` has them: nan among numbers, empty among text."""
    if None not in values:
        return values
    is_text = any(isinstance(value, str) for value in values)
    return [("" if is_text else np.nan) if value is None else value for value in values]
