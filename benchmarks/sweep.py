"""Cost of a cell from 10^2 to 10^5 cells that cost nothing themselves, and the driver's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.table import Result
from headwater.lab.sweep.grid import Cell, Grid
from headwater.lab.sweep.run import Plan
from headwater.lab.sweep.run import run as run_sweep
from headwater.lab.sweep.settings import Settings, provenance

_COUNTS = (100, 1_000, 10_000, 100_000)
_ENGINES = ("serial", "loky")
_SEEDS = 32


def run() -> list[Result]:
    """The table."""
    rows = []
    for engine in _ENGINES:
        for count in _COUNTS:
            micro, own, grown = _in_own_process(engine, count)
            rows.append((engine, f"{count:,}", f"{micro:.0f}", f"{own:.0f}", f"{grown:.0f}"))
    own_of = {count: float(row[3]) for count, row in zip(_COUNTS, rows, strict=False)}  # of the first engine
    ratio = own_of[100_000] / own_of[1_000]
    title = f"Sweeps of cells that cost nothing, {_SEEDS} seeds a row"
    columns = ("engine", "cells", "microseconds per cell", "of which the driver computes", "it grew by, MiB")
    remark = (
        f"Serial, the driver's own time per cell at 100,000 over 1,000 cells: {ratio:.2f} (target: 1.2 or less). loky's rows have the "
        "start of its workers in them, which is most of the first ones."
    )
    return [Result("sweep", title, columns, tuple(rows), (remark,))]


def numbered(number: int) -> None:
    """The factory of cells that nobody builds."""


def trivial(cell: Cell) -> Mapping[str, Any]:
    """A row of the usual size, at no cost: what is left is the sweep's own."""
    values = [0.1 * cell.parameters["number"]] * _SEEDS
    names = (
        "gain_decades",
        "rate_decades_per_layer",
        "rate_low",
        "rate_high",
        "forward_decades_per_layer",
        "output_rms",
    )
    return {"num_seeds": _SEEDS, "seeds": list(range(_SEEDS)), **{f"seed_{name}": values for name in names}}


def one(engine: str, count: int) -> list[float]:
    """Microseconds per cell, those that the driver computes, and MiB that it grew by."""
    grid = Grid({"number": range(count)}, factory=numbered)
    with tempfile.TemporaryDirectory() as folder:
        warm = Grid({"number": range(8)}, factory=numbered)
        run_sweep(warm, trivial, Path(folder) / "warm", provenance(warm, Settings()), Plan(executor="serial"))
        before, start, own = _resident_mib(), time.perf_counter(), time.process_time()
        run_sweep(grid, trivial, Path(folder) / "out", provenance(grid, Settings()), Plan(executor=engine))
        seconds, own = time.perf_counter() - start, time.process_time() - own
        return [1e6 * seconds / count, 1e6 * own / count, _peak_mib() - before]


def _in_own_process(engine: str, count: int) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.sweep", engine, str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
