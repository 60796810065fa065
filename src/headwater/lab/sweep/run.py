"""One run: the cells of a grid that its data set does not hold yet, measured into it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headwater.lab.sweep.columns import Row, columns_of
from headwater.lab.sweep.data_set import DataSet, Keys, opened
from headwater.lab.sweep.driver import Driver
from headwater.lab.sweep.engine import opened_engine
from headwater.lab.sweep.errors import SweepWarning
from headwater.lab.sweep.grid import Cell, Grid, GridError, Survey
from headwater.lab.sweep.progress import progress_bar
from headwater.lab.sweep.work import Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a sweep is run; nothing of it changes a result. `sweep` says what each field means."""

    executor: Executor | str | None = None
    workers: int | None = None
    resume: bool = True
    retry_failed: bool = False
    impossible: str = "refuse"
    progress: bool = False


def run(grid: Grid, measure: Measure, folder: Path, header: Mapping[str, Any], plan: Plan) -> None:
    """Measures the cells that are not in the data set yet.

    Args:
        grid: of the cells.
        measure: called with each of them, in a worker.
        folder: of the data set.
        header: its provenance.
        plan: how.

    Raises:
        GridError: a combination does not exist, and is not skipped.
        SweepError: the data set cannot be written, or holds another sweep; the engine is not there, or gone.
    """
    columns = columns_of(grid)
    survey = surveyed(grid, plan.impossible)
    with opened(folder, {**header, "columns": columns}, columns, resume=plan.resume) as data_set:
        for sentence in data_set.damaged:
            warnings.warn(f"{sentence}; the cells in it run again", SweepWarning, stacklevel=3)
        _go_on(grid, survey, measure, data_set, plan)


def surveyed(grid: Grid, impossible: str) -> Survey:
    """How many cells a grid has, all of them possible unless impossible ones are skipped.

    Raises:
        GridError: a combination does not exist, and is not skipped.

    >>> surveyed(Grid({"shortcut": ["none", "identity"], "initialisation": ["he", "fixup"]}), "skip").num_cells
    3
    """
    if impossible not in ("refuse", "skip"):
        raise GridError(f"expected impossible to be 'refuse' or 'skip', got {impossible!r}")
    survey = grid.survey()
    if survey.num_impossible and impossible == "refuse":
        total = survey.num_cells + survey.num_impossible
        raise GridError(
            f"{survey.num_impossible:,} of the grid's {total:,} combinations do not exist ({survey.reason}); leave them out, or skip "
            "them with impossible = 'skip'"
        )
    return survey


def _go_on(grid: Grid, survey: Survey, measure: Measure, data_set: DataSet, plan: Plan) -> None:
    finished = data_set.finished(retry_failed=plan.retry_failed)
    num_finished = sum(_is_in(finished, cell) for cell in grid.cells()) if len(finished) else 0
    if num_finished == survey.num_cells:
        return
    with ExitStack() as stack:
        engine = stack.enter_context(opened_engine(plan.executor, plan.workers))
        draw = stack.enter_context(progress_bar(survey.num_cells, num_finished)) if plan.progress else None

        def on_row(row: Row) -> None:
            data_set.append(row)
            if draw is not None:
                draw(row)

        cells = (cell for cell in grid.cells() if not _is_in(finished, cell))
        Driver(engine, measure, on_row, survey.num_cells - num_finished).run(cells)


def _is_in(finished: Keys, cell: Cell) -> bool:
    if not len(finished):
        return False
    key = np.uint64(cell.key)
    position = int(np.searchsorted(finished, key))
    return position < len(finished) and bool(finished[position] == key)
