"""The driver loses nothing but the cell that is to blame, whatever workers and executors do."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from headwater.lab.sweep import SweepError
from headwater.lab.sweep.driver import Driver
from headwater.lab.sweep.engine import Engine, SerialExecutor, opened_engine
from headwater.lab.sweep.grid import Cell
from headwater.lab.sweep.work import rows_of
from tests.lab.sweep.cells import grid_of, measure_number


def driven(engine, grid, measure=measure_number, count=None):
    rows = []
    Driver(engine, measure, rows.append, count or grid.survey().num_cells).run(grid.cells())
    return rows


def plain(rows):
    return sorted(({k: v for k, v in row.items() if k != "seconds"} for row in rows), key=lambda row: row["number"])


def expected(grid):
    return plain(rows_of(measure_number, list(grid.cells())))


@pytest.mark.parametrize("make", [ThreadPoolExecutor, SerialExecutor])
def test_any_executor_gives_every_cell_once(make):
    grid = grid_of(137)
    with make() as executor:
        assert plain(driven(Engine(executor, 3), grid)) == expected(grid)


def test_a_cell_that_raises_is_a_row_with_its_sentence():
    grid = grid_of(9, fault="raise 4")
    rows = plain(driven(Engine(SerialExecutor(), 1), grid))
    assert [row["status"] for row in rows] == ["done"] * 4 + ["failed"] + ["done"] * 4
    assert rows[4]["error"] == "ValueError: the cell's own fault"


def test_a_worker_that_is_killed_loses_nothing(tmp_path):
    grid = grid_of(60, fault="17", marker=str(tmp_path / "killed"))
    with opened_engine("loky", 2) as engine:
        rows = plain(driven(engine, grid))
    assert (tmp_path / "killed").exists()
    assert rows == expected(grid)


def test_a_cell_that_always_kills_its_worker_is_the_only_one_that_fails():
    grid = grid_of(40, fault="always 11")
    with opened_engine("loky", 2) as engine:
        rows = plain(driven(engine, grid))
    assert [row["number"] for row in rows] == list(range(40))
    assert [row["number"] for row in rows if row["status"] == "failed"] == [11]
    assert "its worker died" in rows[11]["error"]


def test_an_executor_that_only_its_owner_can_renew_ends_the_sweep_in_one_sentence():
    grid = grid_of(40, fault="always 11")
    rows = []
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(SweepError, match=r"executor is broken .* what is finished is kept"),
    ):
        Driver(Engine(executor, 1), measure_number, rows.append, 40).run(grid.cells())
    assert 0 < len(rows) <= 11


class LosingExecutor(Executor):
    """Loses the tasks whose numbers are given, as a cluster does whose nodes fail; counts how much is out."""

    def __init__(self, lost):
        self.lost, self.count, self.out, self.most = lost, itertools.count(), 0, 0

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.out += 1
        self.most = max(self.most, self.out)
        if next(self.count) in self.lost:
            future.set_exception(ConnectionError("the node is gone"))
        else:
            future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("lost", [{0}, {0, 1, 2, 3, 4}, {1, 3, 5, 7, 9, 11}, set(range(10))])
def test_tasks_that_a_cluster_loses_run_again(lost):
    grid = grid_of(50)
    assert plain(driven(Engine(LosingExecutor(lost), 2), grid)) == expected(grid)


def test_an_engine_that_loses_everything_ends_the_sweep_and_blames_no_cell():
    rows = []
    engine = Engine(LosingExecutor(range(10**6)), 2)
    with pytest.raises(SweepError, match=r"no worker answers \(ConnectionError: the node is gone\)"):
        Driver(engine, measure_number, rows.append, 10**5).run(grid_of(10**5).cells())
    assert rows == []


class Ticket(Executor):
    """Answers nothing by itself: the test looks at what is out."""

    def __init__(self):
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.futures.append((future, args[-1]))
        return future


def test_no_more_cells_are_made_than_the_window_holds():
    made = itertools.count()
    seen = []

    def cells():
        for number in made:
            seen.append(number)
            yield Cell(f"cell {number}", {"number": number})

    engine = Engine(Ticket(), 3)
    driver = Driver(engine, measure_number, lambda row: None, 10**9)
    assert driver._fill(cells())
    assert len(engine.executor.futures) == engine.window == 6
    assert len(seen) <= 6


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_driver_that_is_interrupted_takes_back_what_waits_in_an_executor_that_is_not_ours(is_ours):
    """loky raises in a thread of its own where it meets a cancelled future while it shuts down."""
    executor = Ticket()

    def interrupted(row):
        raise KeyboardInterrupt

    driver = Driver(Engine(executor, 2, renew=Ticket if is_ours else None), measure_number, interrupted, 100)
    cells = grid_of(100).cells()
    driver._fill(cells)
    (first, tasks), *others = executor.futures
    first.set_result(rows_of(measure_number, tasks))
    with pytest.raises(KeyboardInterrupt):
        driver.run(cells)
    assert others
    assert {future.cancelled() for future, _ in others} == {not is_ours}


def test_a_submit_that_breaks_renews_the_executor():
    class Broken(Executor):
        def submit(self, fn, /, *args, **kwargs):
            raise BrokenExecutor("gone")

    engine = Engine(Broken(), 1, renew=SerialExecutor)
    assert plain(driven(engine, grid_of(5))) == expected(grid_of(5))


def test_an_executor_that_was_shut_down_is_one_sentence():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(SweepError, match="takes no tasks"):
        driven(Engine(executor, 1), grid_of(3))


def test_what_cannot_be_pickled_is_said_and_no_worker_is_blamed():
    lock = threading.Lock()

    def measure(cell):
        return lock and measure_number(cell)

    with opened_engine("loky", 1) as engine, pytest.raises(SweepError, match="cannot be sent what they shall measure"):
        driven(engine, grid_of(5), measure)


@pytest.mark.parametrize("workers", [0, -1, 2.0])
def test_a_number_of_workers_that_cannot_be_is_refused(workers):
    with pytest.raises(SweepError, match="expected workers to be a whole number from 1"), opened_engine(None, workers):
        pass


def test_what_is_no_executor_is_refused():
    with (
        pytest.raises(SweepError, match=r"expected a concurrent.futures.Executor, 'loky' or 'serial', got 'spark'"),
        opened_engine("spark"),
    ):
        pass
