"""Time per layer from 10 to 10,000 layers: recording, judging, printing."""

from __future__ import annotations

import gc
import statistics
import time

import torch
from torch import nn

from benchmarks.table import Result
from headwater.capture import load_fused_moments, record
from headwater.diagnosis import judge

_DEPTHS = (10, 100, 1_000, 10_000)
_WIDTH = 16
_LAYERS_PER_DEPTH = 20_000  # repeats, so that every depth measures as many layers


def run() -> list[Result]:
    """The table."""
    load_fused_moments(at_once=True)
    microseconds = {depth: _microseconds_per_layer(depth) for depth in _DEPTHS}
    rows = tuple((f"{depth:,}", f"{micro:.0f}") for depth, micro in microseconds.items())
    spread = max(microseconds.values()) / min(microseconds.values())
    title = f"Time per layer (Linear + Tanh, width {_WIDTH}, batch 8): record, judge, print the report"
    remark = f"Largest over smallest: {spread:.2f}. Target: 1.5."
    return [Result("depth", title, ("layers", "microseconds per layer"), rows, (remark,))]


def _microseconds_per_layer(depth: int) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(*[module for _ in range(depth) for module in (nn.Linear(_WIDTH, _WIDTH), nn.Tanh())])
    inputs = torch.randn(8, _WIDTH)
    _once(model, inputs)
    repeats = max(_LAYERS_PER_DEPTH // depth, 3)
    gc.collect()
    gc.freeze()  # what exists already is not what is measured
    try:
        return statistics.median(_once(model, inputs) for _ in range(repeats)) / depth * 1e6
    finally:
        gc.unfreeze()


def _once(model: nn.Module, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    with record(model) as recorder:
        model(inputs).sum().backward()
    report = str(judge(recorder.recording))
    assert report
    return time.perf_counter() - start
