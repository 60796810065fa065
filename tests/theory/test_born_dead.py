"""Networks that are dead before training starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.theory.born_dead import born_dead_probability, greatest_depth_alive


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_every_layer_has_to_be_alive(widths):
    alive = 1.0
    for width in widths:
        alive *= 1.0 - 0.5**width
    assert born_dead_probability(widths) == pytest.approx(1.0 - alive, rel=1e-9, abs=1e-15)


def test_wide_networks_keep_their_precision():
    assert born_dead_probability([200] * 10) == pytest.approx(10 * 2.0**-200, rel=1e-9)
    assert born_dead_probability([2000]) == 0.0


@given(st.integers(1, 12), st.floats(1e-6, 0.99))
def test_the_greatest_depth_has_just_this_probability(width, probability):
    depth = greatest_depth_alive(width, probability)
    assert born_dead_probability([width] * (int(depth) + 1)) >= probability * (1.0 - 1e-6)
    if depth >= 1.0:
        assert born_dead_probability([width] * int(depth)) <= probability * (1.0 + 1e-6)


@pytest.mark.parametrize(
    "call",
    [lambda: born_dead_probability([3, 0]), lambda: greatest_depth_alive(0), lambda: greatest_depth_alive(3, 1.0)],
)
def test_impossible_networks_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()
