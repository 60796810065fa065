"""Interleaved timing: every variant is compared with a run of the bare step right beside its own."""

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

    Once per round, every variant runs next to a run of the reference, before it or after it in turn, and its ratio is
    taken within that pair: noise that lasts longer (another process, a warm processor) hits both alike, and the median over
    rounds drops what hits one of them. The garbage collector runs between measurements, not in them.
    """
    for _ in range(warm_up):
        for run in variants.values():
            run()
    reference, *others = variants
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
    for number in range(rounds):
        for name in others:
            variants[reference]()  # whatever the variant before has left behind (cold caches, freed memory) ends here
            order = (reference, name) if number % 2 == 0 else (name, reference)
            seconds = {which: _timed(variants[which]) for which in order}
            pairs[name].append((seconds[reference], seconds[name]))
    bare = statistics.median(first for taken in pairs.values() for first, _ in taken)
    return [Timing(reference, bare, 1.0, 1.0, 1.0), *(_timing(name, taken) for name, taken in pairs.items())]


def _timed(run: Callable[[], object]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    finally:
        gc.enable()


def _timing(name: str, pairs: list[tuple[float, float]]) -> Timing:
    ratios = [own / bare for bare, own in pairs]
    lower, ratio, upper = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Timing(name, statistics.median(own for _, own in pairs), ratio, lower, upper)
