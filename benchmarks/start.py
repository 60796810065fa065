"""How long it takes until something happens: imports and `--help`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.table import Result

_ROUNDS = 9
_COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "headwater --help": [sys.executable, "-m", "headwater.cli", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, headwater": [sys.executable, "-c", "import torch, headwater"],
    "import torch, headwater and all that diagnose needs": [
        sys.executable,
        "-c",
        "import torch, headwater as hw; hw.diagnose, hw.record",
    ],
}


def run() -> list[Result]:
    """The table."""
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for _ in range(_ROUNDS):
        for name, command in _COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    extra = statistics.median(
        own - torch for own, torch in zip(seconds["import torch, headwater"], seconds["import torch"], strict=True)
    )
    rows = tuple((name, f"{value:.2f}") for name, value in medians.items())
    remark = f"Headwater over torch: {extra:.2f} s. Targets: --help 0.25 s, headwater over torch 0.1 s."
    return [Result("start", f"Start-up, medians of {_ROUNDS} processes", ("command", "seconds"), rows, (remark,))]
