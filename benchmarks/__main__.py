"""Runs benchmarks and prints their tables; `--write` keeps them in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.table import Result, replace_in

BENCHMARKS = {
    "capture": "benchmarks.capture_overhead",
    "detectors": "benchmarks.detectors",
    "diagnose": "benchmarks.diagnose",
    "memory": "benchmarks.memory",
    "depth": "benchmarks.depth",
    "ensembles": "benchmarks.ensembles",
    "start": "benchmarks.start",
    "sweep": "benchmarks.sweep",
    "sweep-workers": "benchmarks.sweep_workers",
    "statistics": "benchmarks.weight_statistics",
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main() -> None:
    """Runs what the command line names, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {DOCUMENT.name}")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    console = Console()
    console.print(machine())
    for name in options.names or BENCHMARKS:
        for result in importlib.import_module(BENCHMARKS[name]).run():
            show(console, result)
            if options.write:
                text = DOCUMENT.read_text(encoding="utf-8")
                DOCUMENT.write_text(replace_in(text, result), encoding="utf-8")


def machine() -> str:
    """What this ran on, in words."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return (
        f"{_processor()}, {torch.get_num_threads()} threads{gpu}; torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.system()}"
    )


def show(console: Console, result: Result) -> None:
    """Prints one table."""
    table = Table(*result.columns, title=result.title, title_justify="left")
    for row in result.rows:
        table.add_row(*row)
    console.print(table)
    for remark in result.remarks:
        console.print(remark, style="dim")
    console.print()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
