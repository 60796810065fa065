"""What a worker does: measures a few cells, each for itself, and says what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from headwater.lab.sweep.columns import Row
from headwater.lab.sweep.grid import Cell

Measure = Callable[[Cell], Mapping[str, Any]]


def rows_of(measure: Measure, cells: Sequence[Cell]) -> list[Row]:
    """One row per cell. A cell that raises is a row that says so, and no matter of the others.

    Args:
        measure: what a cell's row holds beside the cell itself.
        cells: to measure, one after the other, with one thread of torch.

    >>> [row["status"] for row in rows_of(lambda cell: {"gain_decades": 1 / cell.parameters["depth"]}, [
    ...     Cell("a", {"depth": 0}), Cell("b", {"depth": 2})])]
    ['failed', 'done']
    """
    with one_torch_thread():
        return [_row(measure, cell) for cell in cells]


def failed_row(cell: Cell, sentence: str) -> Row:
    """The row of a cell that has no results.

    >>> failed_row(Cell("a", {}), "its worker died")["error"]
    'its worker died'
    """
    return {**_identity(cell), "status": "failed", "error": sentence}


def _row(measure: Measure, cell: Cell) -> Row:
    start = time.perf_counter()
    try:
        results = {"status": "done", **measure(cell)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a user's factory raises
        results = {"status": "failed", "error": _described(error)}
    return {**_identity(cell), **results, "seconds": time.perf_counter() - start}


def _identity(cell: Cell) -> Row:
    return {"cell": f"{cell.key:016x}", "specification": cell.line, **cell.parameters}


def _described(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _Threads:
    """How many tasks of this process want one thread of torch now, and how many threads it had before the first of them."""

    lock = threading.Lock()
    num_tasks = 0
    before = 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch computes with one thread meanwhile: sums have the same bits in every worker, and workers do not fight for cores."""
    import torch

    with _Threads.lock:
        _Threads.num_tasks += 1
        if _Threads.num_tasks == 1:
            _Threads.before = torch.get_num_threads()
            torch.set_num_threads(1)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.num_tasks -= 1
            if not _Threads.num_tasks:
                torch.set_num_threads(_Threads.before)
