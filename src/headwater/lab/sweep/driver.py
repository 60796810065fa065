"""The driver: hands cells to an engine, a bounded number at a time, and takes rows back as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue

from headwater.lab.sweep.columns import Row
from headwater.lab.sweep.engine import Engine
from headwater.lab.sweep.errors import SweepError
from headwater.lab.sweep.grid import Cell
from headwater.lab.sweep.pace import Pace
from headwater.lab.sweep.work import Measure, failed_row, rows_of

# A task that was lost with its worker runs again as it is; then each of its cells alone, with nothing else in flight, so that
# the cell to blame is known; a cell that is lost like that has failed.
_ALONE = 2
# After so many losses in a row (a broken pool loses all that it holds at once) an empty task has to show that the engine lives.
_MOST_LOST_IN_A_ROW = 12
_PROBES = 3  # the cells in flight beside an empty task may break the pool under it


@dataclass(frozen=True, slots=True)
class _Task:
    cells: tuple[Cell, ...]
    times_lost: int = 0


class Driver:
    """Measures cells on an engine.

    Args:
        engine: where.
        measure: what a worker does with a cell; it is sent there with each task.
        on_row: is called with each row as it comes, in any order.
        num_cells: that there are to measure.
    """

    def __init__(self, engine: Engine, measure: Measure, on_row: Callable[[Row], None], num_cells: int) -> None:
        self._engine, self._measure, self._on_row = engine, measure, on_row
        self._num_left = num_cells
        self._pace = Pace(engine.task_seconds, engine.num_workers)
        self._lost: deque[_Task] = deque()
        self._in_flight: dict[Future[list[Row]], _Task] = {}
        self._answers: SimpleQueue[Future[list[Row]]] = SimpleQueue()
        self._num_lost_in_a_row = 0

    def run(self, cells: Iterator[Cell]) -> None:
        """Measures all cells.

        Raises:
            SweepError: the engine is gone, or a row cannot be kept.
        """
        try:
            while self._fill(cells):
                self._take(self._answers.get())
        finally:
            self._leave()

    def _leave(self) -> None:
        """Takes back what an executor of somebody else's has not begun; our own is shut down with all that it holds."""
        if self._engine.renew is None:
            for future in self._in_flight:
                future.cancel()

    def _fill(self, cells: Iterator[Cell]) -> bool:
        """Sends tasks until the window is full; False where nothing is left to wait for."""
        while len(self._in_flight) < self._engine.window:
            task = self._next(cells)
            if task is None:
                break
            self._send(task)
        return bool(self._in_flight)

    def _next(self, cells: Iterator[Cell]) -> _Task | None:
        if self._lost and self._lost[0].times_lost < _ALONE:
            return self._lost.popleft()
        if any(task.times_lost >= _ALONE for task in self._in_flight.values()):
            return None
        fresh = tuple(islice(cells, self._pace.size(self._num_left)))
        self._num_left -= len(fresh)
        if fresh:
            return _Task(fresh)
        return self._lost.popleft() if self._lost and not self._in_flight else None

    def _send(self, task: _Task) -> None:
        while True:
            try:
                future = self._engine.submit(rows_of, self._measure, task.cells)
            except BrokenExecutor as error:
                self._count_lost(error)
                self._engine.replace(error)
            else:
                break
        self._in_flight[future] = task
        future.add_done_callback(self._answers.put)

    def _take(self, future: Future[list[Row]]) -> None:
        task = self._in_flight.pop(future)
        try:
            rows = future.result()
        except (Exception, CancelledError) as error:  # noqa: BLE001  # a cell's own errors are rows: this is the engine's
            self._lose(task, error)
            return
        self._num_lost_in_a_row = 0
        self._pace.note(len(rows), sum(row["seconds"] for row in rows))
        for row in rows:
            self._on_row(row)

    def _lose(self, task: _Task, error: BaseException) -> None:
        if "pickl" in f"{type(error).__name__} {error}".lower():  # again would be in vain
            raise SweepError(
                f"the workers cannot be sent what they shall measure ({_sentence(error)}): define the factory at the top of a module, "
                "and let it make what cannot be pickled"
            ) from error
        self._count_lost(error)
        times = task.times_lost + 1
        if times > _ALONE:
            self._probe(error)
            self._on_row(failed_row(task.cells[0], _sentence(error)))
        elif times == _ALONE:
            self._lost.extend(_Task((cell,), times) for cell in task.cells)
        else:
            self._lost.appendleft(_Task(task.cells, times))

    def _count_lost(self, error: BaseException) -> None:
        self._num_lost_in_a_row += 1
        if self._num_lost_in_a_row > _MOST_LOST_IN_A_ROW + self._engine.window:
            self._probe(error)

    def _probe(self, error: BaseException) -> None:
        """Nothing, where an empty task comes back: then it is the cells that are lost, and not the engine."""
        for _ in range(_PROBES):
            try:
                self._engine.submit(rows_of, self._measure, ()).result()
            except BrokenExecutor as broken:
                self._engine.replace(broken)
            except (Exception, CancelledError):  # noqa: BLE001, S112  # its last try is the answer
                continue
            else:
                self._num_lost_in_a_row = 0
                return
        raise SweepError(
            f"no worker answers ({_sentence(error)}); what is finished is kept: run the same sweep again when the engine is there"
        ) from error


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"its worker died: killed, or out of memory ({what})" if isinstance(error, BrokenExecutor) else what
