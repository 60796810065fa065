"""The data set that a sweep writes: a header, Parquet parts, and a journal of what is not yet in a part."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.lab.sweep.columns import SCHEMA_VERSION, Row
from headwater.lab.sweep.errors import SweepError
from headwater.lab.sweep.journal import Journal, read_journal
from headwater.lab.sweep.parts import (
    DamagedPartError,
    header_of,
    next_number,
    part_path,
    part_paths,
    read_part,
    write_part,
)

HEADER, JOURNAL, LOCK = "sweep.json", "journal.jsonl", "lock"
ROWS_PER_PART = 1000

Keys = NDArray[np.uint64]


class DataSet:
    """A folder that rows are appended to; made by `opened`.

    What is in memory does not grow with the rows: at most those of one part, and eight bytes for each cell of earlier runs.

    Args:
        folder: of the data set.
        header: provenance; see `headwater.lab.sweep.provenance`.
        columns: types of the columns, by name.

    Attributes:
        damaged: what cannot be read, one sentence each; its cells count as not finished.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._header, self._columns = header, columns
        self._number = next_number(folder)
        self._rows, num_damaged = read_journal(folder / JOURNAL)
        if num_damaged:
            self.damaged.append(f"{num_damaged} lines of '{folder / JOURNAL}' are damaged")
        self._journal = Journal(folder / JOURNAL)
        self.flush()
        self._done, self._failed = self._stock()

    def finished(self, *, retry_failed: bool) -> Keys:
        """The keys of the cells that earlier runs have finished, in order.

        Args:
            retry_failed: leave out those that failed.
        """
        return self._done if retry_failed else np.union1d(self._done, self._failed)

    def append(self, row: Row) -> None:
        """Keeps a row: after that, nothing but the disk can lose it.

        Raises:
            SweepError: it cannot be written.
        """
        with _writing(self.folder):
            self._journal.append(row)
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Moves the journal's rows into a new part.

        Raises:
            SweepError: it cannot be written; the rows stay in the journal.
        """
        with _writing(self.folder):
            if self._rows:
                write_part(part_path(self.folder, self._number), self._rows, self._columns, self._header)
                self._number += 1
                self._rows = []
            self._journal.clear()

    def close(self) -> None:
        """Flushes, and closes the files.

        Raises:
            SweepError: the last part cannot be written; its rows stay in the journal.
        """
        try:
            self.flush()
        finally:
            self._journal.close()

    def _stock(self) -> tuple[Keys, Keys]:
        """The keys of the cells that are done, and of those that failed. Damaged parts are named and set aside."""
        done, failed = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for path in part_paths(self.folder):
            try:
                table = read_part(path)  # all of it: a page that nobody reads now may be the damaged one
            except DamagedPartError as error:
                self.damaged.append(str(error))
                path.rename(path.with_suffix(".damaged"))  # what can be saved of it by other means is still there
                continue
            keys = np.array([int(cell, 16) for cell in table["cell"].to_pylist()], np.uint64)
            is_done = np.array([status == "done" for status in table["status"].to_pylist()], bool)
            done.append(keys[is_done])
            failed.append(keys[~is_done])
        return np.unique(np.concatenate(done)), np.unique(np.concatenate(failed))


@contextmanager
def opened(folder: Path, header: Mapping[str, Any], columns: Mapping[str, str], *, resume: bool) -> Iterator[DataSet]:
    """A data set to append to, flushed at the end, whatever ends it. No other process can append meanwhile.

    Args:
        folder: made where it is not there.
        header: what will be measured; a folder with another sweep is refused.
        columns: types of the columns, by name.
        resume: go on with what is there; refused otherwise, where there is something.

    Raises:
        SweepError: the folder holds another sweep, is in use, or cannot be written.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        damaged = _checked_header(folder, header, resume=resume)
        with _writing(folder):
            data_set = DataSet(folder, header, columns)
        data_set.damaged[:0] = damaged
        try:
            yield data_set
        finally:
            data_set.close()


def _checked_header(folder: Path, header: Mapping[str, Any], *, resume: bool) -> list[str]:
    """Writes the header, where the folder is free or holds the same sweep. What of it is damaged is returned."""
    others = [path.name for path in folder.iterdir() if path.name not in (LOCK, HEADER, JOURNAL)]
    is_sweep = (folder / HEADER).exists() or (folder / JOURNAL).exists() or bool(part_paths(folder))
    if others and not is_sweep:
        raise SweepError(
            f"'{folder}' holds other files ('{others[0]}'); name a new folder for the results of the sweep"
        )
    if is_sweep and not resume:
        raise SweepError(f"'{folder}' holds the results of a sweep already; resume it, or name another folder")
    before, damaged = read_header(folder)
    if before is not None:
        _check_same(folder, before, header)
    with _writing(folder):
        unfinished = folder / f".{HEADER}.{os.getpid()}"
        try:
            unfinished.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(folder / HEADER)
        except BaseException:
            unfinished.unlink(missing_ok=True)  # a file of ours that would be taken for somebody else's
            raise
    return damaged


def read_header(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The header of a data set, from its parts where its own file is damaged; and a sentence on what is.

    Returns:
        None where there is no header at all.
    """
    path, damaged = folder / HEADER, []
    if path.exists():
        header = _own_header(path)
        if header is not None:
            return header, []
        damaged.append(f"'{path}' is damaged; what the parts say about themselves counts")
    for part in part_paths(folder):
        try:
            return header_of(part), damaged
        except DamagedPartError:
            continue  # named by whoever reads its rows
    return None, damaged


def _own_header(path: Path) -> dict[str, Any] | None:
    """What a header's own file says; None where it cannot be read, or is no header."""
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return header if _is_header(header) else None


def _is_header(value: Any) -> bool:
    """Whether it says what a header says; one of another schema version is its own affair."""
    if not isinstance(value, dict) or "schema_version" not in value:
        return False
    return value["schema_version"] != SCHEMA_VERSION or value.keys() >= {"grid", "settings", "columns"}


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if before.get("schema_version") != SCHEMA_VERSION:
        raise SweepError(
            f"'{folder}' holds results of schema version {before.get('schema_version')}, and this headwater writes {SCHEMA_VERSION}; "
            "name another folder"
        )
    old, new = (
        {**header.get("settings", {}), "factory": header.get("grid", {}).get("factory")} for header in (before, now)
    )
    for name in new:
        if old.get(name) != new[name]:
            raise SweepError(
                f"'{folder}' holds a sweep with {name} = {old.get(name)}, and this one has {new[name]}; name another folder, "
                "or ask for the same"
            )

    kinds, new_kinds = before.get("columns", {}), now["columns"]
    for name in new_kinds:
        both = {kinds.get(name, new_kinds[name]), new_kinds[name]}
        if len(both) > 1 and both != {"int64", "float64"}:
            raise SweepError(
                f"'{folder}' holds a sweep with '{name}' of type {kinds[name]}, and this one has {new_kinds[name]}, which no table "
                "can hold together; name another folder"
            )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise SweepError(
            f"cannot write into '{folder}': {reason}; free space or name another folder, and run the same sweep again: what is finished is kept there"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other process has the folder meanwhile. The lock goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two sweeps into one folder are the user's care
        yield
        return
    with _writing(folder):
        file = (folder / LOCK).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SweepError(
                f"another process writes its sweep into '{folder}'; wait for it, or name another folder"
            ) from None
        yield
