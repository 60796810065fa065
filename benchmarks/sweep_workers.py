"""Throughput of real cells against the number of workers."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.table import Result
from headwater.lab.sweep.cell import SpecificationMeasure
from headwater.lab.sweep.engine import opened_engine
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


def run() -> list[Result]:
    """The table."""
    grid = Grid(_GRID)
    count = grid.survey().num_cells
    settings = Settings(seeds=_SEEDS)
    rates: dict[str, float] = {}
    for name, kind, workers in _engines():
        with tempfile.TemporaryDirectory() as folder, opened_engine(kind, workers) as engine:
            measure = SpecificationMeasure(settings)
            for future in [engine.submit(rows_of, measure, tuple(grid.cells())[:4]) for _ in range(2 * workers)]:
                future.result()  # started, and warm
            start = time.perf_counter()
            plan = Plan(executor=engine.executor, workers=workers)
            run_sweep(grid, measure, Path(folder) / "out", provenance(grid, settings), plan)
            rates[name] = count / (time.perf_counter() - start)
    rows = tuple((name, f"{rate:.1f}", f"{rate / rates['serial']:.2f}") for name, rate in rates.items())
    title = f"Throughput of {count} mlps of depth 8 to 32, width 32 to 64, {_SEEDS} seeds, with findings"
    return [
        Result(
            "sweep-workers",
            title,
            ("engine, workers", "cells per second", "x serial"),
            rows,
            ("Workers are warm: they take some seconds to start, as each imports torch.",),
        )
    ]


def _engines() -> list[tuple[str, str, int]]:
    return [("serial", "serial", 1), *((f"loky, {n}", "loky", n) for n in range(1, 1 + (os.cpu_count() or 1)))]
