"""How much memory a recording adds at its peak, at two batch sizes: it must not grow with the activations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.table import Result

_BATCHES = (1, 64)
_REPEATS = 2


def run() -> list[Result]:
    """The table; each cell is the peak of a process of its own."""
    rows = []
    for batch in _BATCHES:
        bare = min(_peak_bytes(batch, recorded=False) for _ in range(_REPEATS))
        recorded = min(_peak_bytes(batch, recorded=True) for _ in range(_REPEATS))
        rows.append((str(batch), _mib(bare), _mib(recorded), _mib(recorded - bare)))
    title = "Peak memory above the model's own, one forward and backward pass of GPT-2 (8 layers, 256 wide, 64 tokens)"
    remark = (
        "Peak of the process above what it held before the pass (all kernels loaded). The recording itself: one row of numbers "
        "per tensor; scratch space: one piece of 2**17 values per thread."
    )
    return [Result("memory", title, ("batch", "bare, MiB", "recorded, MiB", "extra, MiB"), tuple(rows), (remark,))]


def _peak_bytes(batch: int, *, recorded: bool) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", str(batch), str(int(recorded))]
    # With a fixed threshold glibc gives every tensor back when it is freed: what is resident is what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    finished = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(finished.stdout.splitlines()[-1])


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f}"


def _measure(batch: int, *, recorded: bool) -> int:
    """Peak bytes of resident memory during a pass, above those before it."""
    import ctypes

    import torch

    from benchmarks.gpt2 import TrainingStep
    from headwater.capture import load_fused_moments, record

    torch.set_num_threads(1)
    load_fused_moments(at_once=True)
    tiny = TrainingStep(batch=1)  # loads every kernel and every line of code that a pass needs
    with record(tiny.model):
        tiny.forward_backward()
    del tiny
    step = TrainingStep(batch=batch)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
    before = _peak_now()
    if recorded:
        with record(step.model):
            step.forward_backward()
    else:
        step.forward_backward()
    return _peak_now() - before


def _peak_now() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]), recorded=sys.argv[2] == "1")))
