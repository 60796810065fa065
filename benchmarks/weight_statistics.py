"""How fast weight gradients are measured, beside one plain read of the same memory."""

from __future__ import annotations

import torch

from benchmarks.table import Result
from benchmarks.timing import interleaved
from headwater.capture import cpu_moments, measure

_NUM_TENSORS = 50
_NUMEL = 500_000
_ROUNDS = 11


def run() -> list[Result]:
    """The table."""
    tensors = [torch.randn(_NUMEL) * 1e-3 for _ in range(_NUM_TENSORS)]

    def plain_read() -> None:
        for tensor in tensors:
            tensor.sum().item()

    def all_moments() -> None:
        for tensor in tensors:
            measure(tensor)

    def all_moments_without_numba() -> None:
        with cpu_moments.fused_moments_unloaded():
            all_moments()

    def absolute_mean() -> None:
        for tensor in tensors:
            tensor.abs().mean().item()

    variants = {"one plain read (sum)": plain_read, "abs().mean()": absolute_mean}
    if cpu_moments.load_fused_moments(at_once=True):
        variants["all moments (with numba)"] = all_moments
    variants["all moments (without numba)"] = all_moments_without_numba
    timings = interleaved(variants, rounds=_ROUNDS)
    rows = tuple((t.name, f"{1e3 * t.seconds:.1f}", f"{1 / t.ratio:.2f}") for t in timings)
    title = f"Statistics of {_NUM_TENSORS} x {_NUMEL:,} float32 values on the CPU, {torch.get_num_threads()} threads"
    remark = "The plain read uses every thread, the moments one. Target: half the speed of a plain read, with numba."
    return [Result("statistics", title, ("what", "ms", "speed relative to a plain read"), rows, (remark,))]
