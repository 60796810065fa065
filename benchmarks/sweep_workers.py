"""Throughput of real cells against the number of workers."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.table import Result
from headwater.lab.sweep.cell import SpecificationMeasure
from headwater.lab.sweep.engine import Engine, opened_engine
from headwater.lab.sweep.grid import Grid
from headwater.lab.sweep.run import Plan
from headwater.lab.sweep.run import run as run_sweep
from headwater.lab.sweep.settings import Settings, provenance
from headwater.lab.sweep.work import rows_of

_GRID = {
    "activation": ["relu", "tanh"],
    "shortcut": ["none", "identity"],
    "depth": [8, 16, 24, 32],
    "width": [32, 40, 48, 56, 64],
}
_SEEDS = 32
_ROUNDS = 5


def run() -> list[Result]:
    """The table: engines in turn, the same cells each time, the median of the rounds."""
    grid = Grid(_GRID)
    count = grid.survey().num_cells
    with ExitStack() as stack:
        engines = {
            name: (stack.enter_context(opened_engine(kind, workers)), workers) for name, kind, workers in _engines()
        }
        for engine, workers in engines.values():
            _warm_up(engine, workers, grid)
        seconds = [{name: _seconds(grid, *engine) for name, engine in engines.items()} for _ in range(_ROUNDS)]
    rates = {name: count / statistics.median(of_round[name] for of_round in seconds) for name in engines}
    ratios = {name: statistics.median(one["serial"] / one[name] for one in seconds) for name in engines}
    rows = tuple((name, f"{rate:.1f}", f"{ratios[name]:.2f}") for name, rate in rates.items())
    title = (
        f"Throughput of {count} mlps of depth 8 to 32, width 32 to 64, {_SEEDS} seeds, with findings; {_ROUNDS} rounds"
    )
    return [
        Result(
            "sweep-workers",
            title,
            ("engine, workers", "cells per second", "x serial"),
            rows,
            ("Workers are warm: they take some seconds to start, as each imports torch. One thread each, serial too.",),
        )
    ]


def _warm_up(engine: Engine, workers: int, grid: Grid) -> None:
    measure = SpecificationMeasure(Settings(seeds=_SEEDS))
    for future in [engine.submit(rows_of, measure, tuple(grid.cells())[:4]) for _ in range(2 * workers)]:
        future.result()


def _seconds(grid: Grid, engine: Engine, workers: int) -> float:
    settings = Settings(seeds=_SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        plan = Plan(executor=engine.executor, workers=workers)
        run_sweep(grid, SpecificationMeasure(settings), Path(folder) / "out", provenance(grid, settings), plan)
        return time.perf_counter() - start


def _engines() -> list[tuple[str, str, int]]:
    return [("serial", "serial", 1), *((f"loky, {n}", "loky", n) for n in range(1, 1 + (os.cpu_count() or 1)))]
