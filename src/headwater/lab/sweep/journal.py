"""The journal: rows that are finished and not yet in a part, one line each, so that a killed driver loses none of them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import BinaryIO

from headwater.lab.sweep.columns import Row


class Journal:
    """A file that rows are appended to. Each line stands for itself: a checksum and a row in JSON.

    A line reaches the operating system before `append` returns, so it outlives the process, however that ends.

    Args:
        path: of the file; lines that are in it stay until `clear`.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab", buffering=0)

    def append(self, row: Row) -> None:
        """Adds a row.

        Raises:
            OSError: it cannot be written; what was written of it is taken back, or will be passed over by `read_journal`.
        """
        line, end = _line_of(row), self._file.tell()
        while line:
            try:
                line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(end)
                raise

    def clear(self) -> None:
        """Empties the file, once its rows are in a part."""
        self._file.truncate(0)
        self._file.seek(0)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_journal(path: Path) -> tuple[list[Row], int]:
    r"""The rows of a journal, and how many lines were damaged and are left out.

    The last line may be cut off, where a process was killed while it wrote: that is no damage, its cell was never reported.

    Raises:
        OSError: it cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "journal"
    >>> _ = path.write_bytes(_line_of({"cell": "a"}) + b"garbage\n" + _line_of({"cell": "b"})[:-3])
    >>> read_journal(path)
    ([{'cell': 'a'}], 1)
    """
    if not path.exists():
        return [], 0
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    rows = [_row_of(line) for line in whole.split(b"\n") if line]
    return [row for row in rows if row is not None], sum(row is None for row in rows)


def _line_of(row: Row) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _row_of(line: bytes) -> Row | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        row = json.loads(text)
    except ValueError:  # a checksum that fits by chance
        return None
    return row if isinstance(row, dict) else None
