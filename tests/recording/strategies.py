"""Hypothesis strategies for numbers, statistics and whole recordings."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import strategies as st

from headwater.recording import (
    Combine,
    Context,
    ExponentHistogram,
    Recording,
    RecordingBuilder,
    SignalKind,
    SourceLine,
    TensorStats,
)

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
FINITE_FLOAT = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

HISTOGRAMS = st.builds(
    ExponentHistogram,
    lowest=st.integers(-1100, 1030),
    counts=st.lists(st.integers(0, 2**40), max_size=12).map(tuple),
)


def exponents_of(values: list[float]) -> ExponentHistogram:
    """The slow histogram of plain numbers, straight from the definition."""
    exponents = [math.frexp(v)[1] - 1 for v in values if math.isfinite(v) and v != 0]
    if not exponents:
        return ExponentHistogram(0, ())
    lowest = min(exponents)
    return ExponentHistogram(lowest, tuple(exponents.count(e) for e in range(lowest, max(exponents) + 1)))


STATS = st.builds(
    lambda values, exponents: replace(TensorStats.from_values(values), exponents=exponents),
    st.lists(ANY_FLOAT, max_size=6),
    st.none() | HISTOGRAMS,
)

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)

CONTEXTS = st.builds(
    Context,
    cotangent=st.sampled_from(["loss", "random", "user", "none"]),
    loss=st.none() | ANY_FLOAT,
    step=st.none() | st.integers(0, 2**40),
    seed=st.none() | st.integers(0, 2**63 - 1),
    devices=st.lists(NAMES, max_size=3).map(tuple),
    model_type=NAMES,
    optimizer=NAMES,
    versions=st.dictionaries(NAMES, NAMES, max_size=3),
    backward_scale_exponent=st.integers(-200, 200),
    notes=st.lists(NAMES, max_size=3).map(tuple),
)


@st.composite
def recordings(draw: st.DrawFn, contexts: st.SearchStrategy[Context] = CONTEXTS) -> Recording:
    """A small recording with anything in it that fits together."""
    builder = RecordingBuilder()
    names = ["", *draw(st.lists(NAMES.filter(bool), max_size=4, unique=True))]
    for index, name in enumerate(names):
        flags = {"training": draw(st.booleans()), "is_leaf": draw(st.booleans())}
        flags["config"] = draw(NAMES)
        builder.add_module(name, draw(NAMES), parent=draw(st.integers(-1, index - 1)), **flags)
    modules = st.integers(0, len(names) - 1)
    called = draw(st.lists(modules, max_size=5))
    for depth, module in enumerate(called):
        builder.add_call(module, parent=draw(st.integers(-1, depth - 1)), finished=draw(st.booleans()))
        _add_signals(draw, builder, module, depth)
        if draw(st.booleans()):
            num_units = draw(st.integers(0, 3))
            extremes = st.lists(ANY_FLOAT, min_size=num_units, max_size=num_units)
            builder.add_units(depth, draw(st.integers(0, 9)), draw(extremes), draw(extremes))
    for _ in range(draw(st.integers(0, 3))):
        flags = {name: draw(st.booleans()) for name in ("requires_grad", "received_gradient", "initialized")}
        builder.add_parameter(draw(modules), draw(NAMES), shape=draw(SHAPES), dtype=draw(NAMES), **flags)
    for _ in range(draw(st.integers(0, 3))):
        builder.add_series(
            draw(NAMES),
            draw(st.lists(ANY_FLOAT, max_size=3)),
            module=draw(modules),
            depth=draw(st.integers(-1, len(called) - 1)),
            item=draw(NAMES),
            combine=draw(st.sampled_from(Combine)),
        )
    num_operations = draw(st.integers(0, 3))
    for index in range(num_operations):
        line = draw(st.none() | st.builds(SourceLine, NAMES, st.integers(0, 9), NAMES))
        depth, norm = draw(st.integers(-1, len(called) - 1)), draw(ANY_FLOAT)
        flags = {"is_finite": draw(st.booleans()), "is_cut": draw(st.booleans())}
        builder.add_operation(draw(NAMES), line=line, depth=depth, gradient_norm=norm, **flags)
        for producer in range(index):
            builder.add_operation_edge(index, producer, draw(ANY_FLOAT))
    if num_operations:
        builder.add_made_by(draw(st.integers(0, 3)), draw(st.integers(0, num_operations - 1)))
    return builder.build(draw(contexts))


def _add_signals(draw: st.DrawFn, builder: RecordingBuilder, module: int, depth: int) -> None:
    keys = draw(st.lists(st.tuples(st.sampled_from(SignalKind), NAMES), max_size=4, unique=True))
    for kind, item in keys:
        tensor = draw(st.none() | st.integers(0, 9))
        builder.add_signal(module, kind, draw(STATS), depth=depth, item=item, shape=draw(SHAPES), tensor=tensor)
