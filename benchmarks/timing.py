"""Interleaved timing: every variant runs once per round, and is compared with the bare step of its own round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Of one variant: median seconds, and the median and quartiles of its ratio to the first variant."""

    name: str
    seconds: float
    ratio: float
    lower: float
    upper: float


def interleaved(variants: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 2) -> list[Timing]:
    """Timings of the variants, the first of which is the reference.

    Noise that lasts longer than a round (another process, a warm processor) hits all variants of the round alike, and
    the median over rounds drops what hits one of them. The garbage collector runs between measurements, not in them.
    The order within a round is reversed every other time.
    """
    for _ in range(warm_up):
        for run in variants.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants)
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(_timed(variants[name]))
    reference = seconds[next(iter(variants))]
    return [_timing(name, times, reference) for name, times in seconds.items()]


def _timed(run: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    finally:
        gc.enable()


def _timing(name: str, times: list[float], reference: list[float]) -> Timing:
    ratios = [own / bare for own, bare in zip(times, reference, strict=True)]
    lower, ratio, upper = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Timing(name, statistics.median(times), ratio, lower, upper)
