"""How long it takes until something happens: imports and `--help`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.table import Result

_ROUNDS = 9
_COMMANDS = {
    "python -c pass": "pass",
    "headwater --help": None,
    "import torch": "import torch",
}
# Timed inside of a process that has imported torch: as a difference of two processes it would drown in torch's own time.
_AFTER_TORCH = {
    "import headwater, after torch": "import headwater",
    "import headwater and all that diagnose needs, after torch": "import headwater as hw; hw.diagnose, hw.record",
}
_TIMED = "import time, torch; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def run() -> list[Result]:
    """The table."""
    seconds: dict[str, list[float]] = {name: [] for name in (*_COMMANDS, *_AFTER_TORCH)}
    for _ in range(_ROUNDS):
        for name, code in _COMMANDS.items():
            start = time.perf_counter()
            _output(["-m", "headwater.cli", "--help"] if code is None else ["-c", code])
            seconds[name].append(time.perf_counter() - start)
        for name, code in _AFTER_TORCH.items():
            seconds[name].append(float(_output(["-c", _TIMED.format(code)])))
    rows = tuple((name, f"{statistics.median(times):.2f}") for name, times in seconds.items())
    remark = "Targets: --help 0.25 s, import headwater 0.1 s over torch's own."
    return [Result("start", f"Start-up, medians of {_ROUNDS} processes", ("what", "seconds"), rows, (remark,))]


def _output(arguments: list[str]) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout
