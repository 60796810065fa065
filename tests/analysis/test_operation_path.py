from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.analysis.operation_path import OperationFlow, log_ratio
from headwater.recording import RecordingBuilder


def flow_of(norms, edges):
    """Operations with these gradient norms; edges are (operation, producer) or (operation, producer, norm)."""
    builder = RecordingBuilder()
    for index, norm in enumerate(norms):
        builder.add_operation(f"f{index}", gradient_norm=norm)
    for edge in edges:
        builder.add_operation_edge(*edge)
    return OperationFlow(builder.build())


def test_a_chain_has_one_step_for_each_operation_and_they_add_up():
    flow = flow_of([1e-6, 1e-4, 1e-1, 2.0], [(1, 0), (2, 1), (3, 2)])
    steps = flow.way_to(0)
    assert [[o.name for o in step.operations] for step in steps] == [["f3"], ["f2"], ["f1"]]
    assert math.fsum(step.decades for step in steps) == pytest.approx(math.log10(1e-6 / 2.0))


def test_a_block_with_a_shortcut_is_one_step():
    # 0 -> 1 (branch) -> 2 (sum, reads 0 and 1) -> 3
    flow = flow_of([0.5, 0.1, 0.1, 1.0], [(1, 0, 0.4), (2, 1), (2, 0, 0.1), (3, 2)])
    steps = flow.way_to(0)
    assert [[o.index for o in step.operations] for step in steps] == [[3], [1, 2]]
    assert steps[1].decades == pytest.approx(math.log10(5.0))
    unchanging = {0: False, 1: False, 2: True, 3: False}
    assert flow.passes_unchanged(steps[1], unchanging) == pytest.approx((0.4, 0.1))
    assert flow.passes_unchanged(steps[1], dict.fromkeys(unchanging, False)) is None


def test_what_does_not_lead_to_the_target_is_no_other_way():
    # 1 hangs beside the chain 0 -> 2 -> 3
    flow = flow_of([1.0, 1.0, 1.0, 1.0], [(2, 0), (3, 2), (3, 1)])
    assert [[o.index for o in step.operations] for step in flow.way_to(0)] == [[3], [2]]


def test_two_roots_meet_before_the_first_narrow_place():
    flow = flow_of([1.0, 2.0, 1.0, 1.0], [(1, 0), (2, 1, 1.0), (3, 1, 1.0)])
    assert [[o.index for o in step.operations] for step in flow.way_to(0)] == [[1]]


@given(st.integers(2, 9), st.randoms(use_true_random=False))
def test_the_narrow_places_are_those_that_every_way_goes_through(size, random):
    edges = sorted({(later, earlier) for later in range(1, size) for earlier in range(later) if random.random() < 0.4})
    edges += [(index, index - 1) for index in range(1, size) if not any(later == index for later, _ in edges)]
    norms = [random.uniform(0.1, 10.0) for _ in range(size)]
    flow = flow_of(norms, edges)
    ways = list(_ways(flow.roots, edges, []))
    through_all = set.intersection(*map(set, ways)) if ways else set()
    expected = sorted(through_all, reverse=True)
    steps = flow.way_to(0)
    narrow = [step.operations[-1].index for step in steps] + ([steps[-1].target] if steps else [])
    if len(expected) > 1:
        assert narrow == expected
        total = log_ratio(norms[expected[-1]], norms[expected[0]])
        assert math.fsum(step.decades for step in steps) == pytest.approx(total, abs=1e-12)
        for step, (start, end) in zip(steps, pairwise(expected), strict=True):
            assert {o.index for o in step.operations} <= set(range(end + 1, start + 1))
    else:
        assert steps == []


def _ways(starts, edges, so_far):
    """Every way from the starts to operation 0, the slow and obvious way."""
    for start in starts:
        if start == 0:
            yield [*so_far, 0]
        yield from _ways([earlier for later, earlier in edges if later == start], edges, [*so_far, start])


def test_the_gain_of_an_operation_is_that_of_its_strongest_way():
    flow = flow_of([1.0, 2.0, 0.1, 10.0], [(3, 2), (3, 1, 2.0), (2, 0), (2, 1, 0.05)])
    assert flow.gain_decades(flow.operations[3]) == pytest.approx(math.log10(0.2))
    assert math.isnan(flow.gain_decades(flow.operations[0]))


def test_ratios_of_what_is_no_number_are_nan():
    assert math.isnan(log_ratio(math.nan, 1.0))
    assert math.isnan(log_ratio(1.0, math.inf))
    assert log_ratio(1e-320, 1e300) == pytest.approx(-620, abs=0.1)
