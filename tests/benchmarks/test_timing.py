from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `perf_counter` tells, in one element."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def taking(clock: list[float], seconds: Iterator[float]):
    def run() -> None:
        clock[0] += next(seconds)

    return run


def test_ratios_are_taken_within_a_pair_and_noise_that_hits_both_cancels(clock):
    bare = taking(clock, iter([9.0, 9.0, *(seconds for taken in (1.0, 10.0, 2.0, 4.0) for seconds in (99.0, taken))]))
    other = taking(clock, iter([9.0, 9.0, 1.5, 15.0, 3.0, 6.0]))
    first, second = timing.interleaved({"bare": bare, "other": other}, rounds=4)
    assert (first.name, first.ratio, first.seconds) == ("bare", 1.0, 3.0)
    assert (second.lower, second.ratio, second.upper) == (1.5, 1.5, 1.5)


def test_one_slow_run_does_not_move_the_median(clock):
    bare = taking(clock, iter([1.0] * 12))
    other = taking(clock, iter([1.0, 1.0, 2.0, 2.0, 50.0, 2.0, 2.0]))
    assert timing.interleaved({"bare": bare, "other": other}, rounds=5)[1].ratio == 2.0


def test_every_variant_has_the_reference_beside_it_before_it_and_after_it_in_turn(clock):
    order = []
    variants = {name: lambda name=name: order.append(name) or clock.__setitem__(0, clock[0] + 1) for name in "abc"}
    timing.interleaved(variants, rounds=2, warm_up=0)
    assert order == ["a", *"ab", "a", *"ac", "a", *"ba", "a", *"ca"]
