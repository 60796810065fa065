"""The parts of a sweep's data set: Parquet files that are written once, whole, and never changed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.lab.sweep.columns import SCHEMA_VERSION, Row, arrow_table

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"part-(\d{6,})\.(parquet|damaged)")
_METADATA = b"headwater"


class DamagedPartError(ValueError):
    """A part cannot be read; the message names the file and says why."""


def write_part(path: Path, rows: Sequence[Row], columns: Mapping[str, str], header: Mapping[str, Any]) -> None:
    """Writes a part beside its place and then moves it there, so that it is whole or not there at all.

    Args:
        path: of the part.
        rows: of the part.
        columns: types of the columns, by name.
        header: what the rows were measured with; each part tells it for itself.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    import pyarrow.parquet as pq

    table = arrow_table(rows, columns).replace_schema_metadata({_METADATA: json.dumps(header).encode()})
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)
        _sync(unfinished)
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def next_number(folder: Path) -> int:
    """One more than the highest number of a part, damaged ones too."""
    return 1 + max((int(found[1]) for path in folder.iterdir() if (found := _NAME.match(path.name))), default=0)


def part_path(folder: Path, number: int) -> Path:
    """Where a part has its place.

    >>> part_path(Path("out"), 7).name
    'part-000007.parquet'
    """
    return folder / f"part-{number:06d}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """The parts of a data set, in the order in which they were written."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".parquet" and _NAME.fullmatch(path.name))


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a part.

    Args:
        path: of the part.
        columns: which of them; all if left out, those that the part has.

    Raises:
        DamagedPartError: it is no whole Parquet file of a sweep, or of another schema version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            header = _header_in(file.schema_arrow)
            there = set(file.schema_arrow.names)
            table = file.read(None if columns is None else [name for name in columns if name in there])
    except (OSError, ValueError, pa.ArrowException) as error:  # ArrowInvalid is a ValueError
        raise DamagedPartError(f"'{path}' is damaged or no Parquet file ({_first_line(error)})") from None
    version = header.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DamagedPartError(f"'{path}' is of schema version {version}, and this headwater reads {SCHEMA_VERSION}")
    return table


def header_of(path: Path) -> dict[str, Any]:
    """What the rows of a part were measured with.

    Raises:
        DamagedPartError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _header_in(pq.read_schema(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedPartError(f"'{path}' is damaged or no Parquet file ({_first_line(error)})") from None


def _header_in(schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(_METADATA)
    if text is None:
        raise ValueError("it is no part of a sweep")
    return json.loads(text)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _sync(path: Path) -> None:
    """Waits until the file, or the folder's list of files, is on the disk and not only in the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
