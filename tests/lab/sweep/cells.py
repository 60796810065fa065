"""Grids and measures for tests of the driver: cheap, picklable, and told what to do by their parameters."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from headwater.lab.sweep.grid import Cell, Grid


def numbered(number, fault="none", marker=""):
    """The factory of cells that nobody builds: `measure_number` reads its parameters alone."""


def grid_of(count, **base):
    return Grid({"number": range(count)}, base, numbered)


def measure_and_kill(cell: Cell):
    """At cell 40, the driver is killed, which says its number in the environment."""
    if cell.parameters["number"] == 40:
        os.kill(int(os.environ["HEADWATER_TEST_DRIVER"]), signal.SIGKILL)
    return measure_number(cell)


def measure_and_interrupt(cell: Cell):
    """At cell 40, Ctrl-C: a signal to all processes of the terminal."""
    if cell.parameters["number"] == 40:
        os.killpg(0, signal.SIGINT)
    return measure_number(cell)


def measure_number(cell: Cell):
    """A row from the cell alone; or what the cell's fault says, once or each time."""
    fault, marker = cell.parameters.get("fault", "none"), cell.parameters.get("marker", "")
    if fault == str(cell.parameters["number"]) and marker and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == f"always {cell.parameters['number']}":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == f"raise {cell.parameters['number']}":
        raise ValueError("the cell's own fault\nand more")
    return {"gain_decades": cell.parameters["number"] / 8, "num_seeds": 1, "seeds": [cell.key], "findings": ["HW101"]}
