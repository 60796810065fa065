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
_ROUNDS = 5
_LAYERS_PER_ROUND = 10_000  # each depth runs so many times in a round that it measures as many layers as the others


def run() -> list[Result]:
    """The table. Depths take turns, so that a machine that slows down for a while slows them all."""
    load_fused_moments(at_once=True)
    models = {depth: _model(depth) for depth in _DEPTHS}
    for model in models.values():
        _once(model)
    gc.collect()
    gc.freeze()  # what exists already is not what is measured
    seconds: dict[int, list[float]] = {depth: [] for depth in _DEPTHS}
    for _ in range(_ROUNDS):
        for depth, model in models.items():
            times = [_once(model) for _ in range(_LAYERS_PER_ROUND // depth)]
            seconds[depth].append(statistics.median(times) / depth)
    gc.unfreeze()
    microseconds = {depth: 1e6 * statistics.median(times) for depth, times in seconds.items()}
    rows = tuple((f"{depth:,}", f"{micro:.0f}") for depth, micro in microseconds.items())
    spread = max(microseconds.values()) / min(microseconds.values())
    title = f"Time per layer (Linear + Tanh, width {_WIDTH}, batch 8): record, judge, print the report"
    remark = f"Largest over smallest: {spread:.2f}. Target: 1.5."
    return [Result("depth", title, ("layers", "microseconds per layer"), rows, (remark,))]


def _model(depth: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[module for _ in range(depth) for module in (nn.Linear(_WIDTH, _WIDTH), nn.Tanh())])


def _once(model: nn.Module) -> float:
    inputs = torch.randn(8, _WIDTH)
    start = time.perf_counter()
    with record(model) as recorder:
        model(inputs).sum().backward()
    report = str(judge(recorder.recording))
    assert report
    return time.perf_counter() - start
