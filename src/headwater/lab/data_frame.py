"""A small table of columns that every data-frame library reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of one length: text, whole numbers, numbers or truth values. Nothing but numpy is needed to hold it.

    Any library that speaks Arrow reads it as it is: `polars.DataFrame(table)`, `pyarrow.table(table)`, DuckDB. A number that is
    not known is nan here, null in Arrow, Parquet and polars, and NaN in pandas; infinite ones stay what they are.

    Args:
        columns: by name, in order.

    Raises:
        ValueError: columns of different lengths, or of more than one dimension.

    >>> table = Table({"layer": ["first", "last"], "gain_decades": [-2.0, 0.0]})
    >>> len(table), table.column_names, table["gain_decades"].tolist()
    (2, ('layer', 'gain_decades'), [-2.0, 0.0])
    """

    columns: Mapping[str, np.ndarray]

    def __init__(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
        arrays = {name: _array(values) for name, values in columns.items()}
        lengths = {name: array.shape for name, array in arrays.items()}
        if len(set(lengths.values())) > 1 or any(len(shape) != 1 for shape in lengths.values()):
            raise ValueError(f"expected columns of one dimension and one length, got {lengths}")
        object.__setattr__(self, "columns", MappingProxyType(arrays))

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.columns[name]
        except KeyError:
            raise KeyError(f"there is no column '{name}'; there are {', '.join(self.columns)}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and repr(self.to_dict()) == repr(other.to_dict())  # a nan is like another one

    __hash__ = None  # type: ignore[assignment]  # arrays inside: not hashable

    def __reduce__(self) -> tuple[type[Table], tuple[dict[str, np.ndarray]]]:
        return Table, (dict(self.columns),)

    def __repr__(self) -> str:
        return f"<Table of {len(self)} rows: {', '.join(self.columns)}>"

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per row, of plain Python values.

        >>> Table({"a": [1, 2]}).rows()
        [{'a': 1}, {'a': 2}]
        """
        lists = self.to_dict()
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]

    def to_dict(self) -> dict[str, list[Any]]:
        """Each column as a list of plain Python values.

        >>> Table({"a": [1, 2]}).to_dict()
        {'a': [1, 2]}
        """
        return {name: array.tolist() for name, array in self.columns.items()}

    def to_arrow(self) -> pa.Table:
        """The table in Arrow's memory.

        Raises:
            ModuleNotFoundError: pyarrow is not installed.

        >>> Table({"a": [1.0, float("nan")]}).to_arrow().column("a").null_count
        1
        """
        arrow = _library("pyarrow")
        return arrow.table({name: arrow.array(array, from_pandas=True) for name, array in self.columns.items()})

    def to_pandas(self) -> pd.DataFrame:
        """The table as a data frame of pandas.

        Raises:
            ModuleNotFoundError: pandas is not installed.

        >>> Table({"a": [1, 2]}).to_pandas()["a"].sum()
        np.int64(3)
        """
        return _library("pandas").DataFrame(dict(self.columns))

    def to_polars(self) -> pl.DataFrame:
        """The table as a data frame of polars.

        Raises:
            ModuleNotFoundError: polars is not installed.

        >>> Table({"a": [1, 2]}).to_polars()["a"].sum()
        3
        """
        # Not by way of pyarrow, which polars does not need: only its nulls have to be made here.
        frame = _library("polars").DataFrame(self.to_dict())
        return frame.fill_nan(None)

    def to_parquet(self, path: str | Path) -> None:
        """Writes a Parquet file.

        Args:
            path: of the file; one that is there is replaced.

        Raises:
            ModuleNotFoundError: pyarrow is not installed.
            OSError: the file cannot be written.
        """
        arrow = self.to_arrow()
        _library("pyarrow.parquet").write_table(arrow, str(path))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table as an Arrow C stream, which data-frame libraries hand to one another (Arrow PyCapsule interface)."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables, one after the other; a column that one of them lacks is nan, or empty text, there.

    >>> joined([Table({"a": [1.0]}), Table({"a": [2.0], "b": ["x"]})]).to_dict()
    {'a': [1.0, 2.0], 'b': ['', 'x']}
    """
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    is_text = {name: any(name in t.columns and t[name].dtype == object for t in tables) for name in names}
    parts = {
        name: [t.columns.get(name, np.full(len(t), "" if is_text[name] else math.nan, object)) for t in tables]
        for name in names
    }
    return Table({name: [value for part in columns for value in part.tolist()] for name, columns in parts.items()})


def _array(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """A frozen copy; text as Python's own strings, which any library takes."""
    array = np.array(values)
    if array.dtype.kind in "USO":
        array = np.array(values, dtype=object)
    array.flags.writeable = False
    return array


def _library(name: str) -> Any:
    package = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"this needs {package}, which is not installed: pip install {package}", name=error.name
        ) from None
