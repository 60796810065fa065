from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headwater.analysis import depth_profile
from headwater.findings import Severity
from headwater.report.folding import Fold, folded
from tests.report.examples import document_of
from tests.report.sketch import Sketch, chain, finding


def _profile(sketch):
    return depth_profile(sketch.build()).rows


def _blocks(num_blocks, types=("Linear", "ReLU"), widths=None):
    """Blocks of two calls each, inside the model."""
    sketch = Sketch()
    root = sketch.call("")
    for index in range(num_blocks):
        block = sketch.call(f"h.{index}", "Block", inside=root)
        for position, kind in enumerate(types):
            shape = (4, 8 if widths is None else widths[index])
            sketch.call(f"h.{index}.{position}", kind, inside=block, shape=shape, weight=0.1)
    return sketch


def _covered(entries):
    """Every row that entries show or stand for, in their order."""
    return [row for e in entries for row in (range(e.start, e.stop) if isinstance(e, Fold) else (e,))]


def test_a_small_model_is_shown_as_it_is():
    rows = _profile(_blocks(9))
    assert folded(rows) == list(range(28))


def test_repeated_blocks_show_the_first_the_last_and_how_many_lie_between():
    rows = _profile(_blocks(12))
    assert folded(rows) == [0, 1, 2, 3, Fold(4, 34, 4, 31, num_repeats=10, period=1), 34, 35, 36]


def test_siblings_that_alternate_fold_in_their_period():
    for types in (("Linear",), ("Linear", "ReLU"), ("Conv2d", "BatchNorm2d", "ReLU"), ("A", "A", "B", "C")):
        period = len(types)
        rows = _profile(chain(*([-1.0] * (period * 250)), types=types))
        entries = folded(rows)
        (fold,) = [entry for entry in entries if isinstance(entry, Fold)]
        assert (fold.num_repeats, fold.period) == (248, period)
        assert len(entries) == 2 + 2 * period


def test_blocks_of_another_width_are_not_folded_with_the_rest():
    rows = _profile(_blocks(24, widths=[8] * 12 + [16] * 12))
    folds = [entry for entry in folded(rows) if isinstance(entry, Fold)]
    assert [fold.num_repeats for fold in folds] == [10, 10]


def test_the_place_where_the_gradient_ends_is_not_inside_a_fold():
    gains = [-float("inf")] * 40 + [-1.0] * 40
    rows = _profile(chain(*gains, types=("Linear",)))
    shown = [entry for entry in folded(rows) if isinstance(entry, int)]
    assert {40, 41} <= set(shown)  # the last layer without a gradient, and the first that has one (row 0 is the model)


def test_a_model_without_repeats_shows_both_ends_and_what_is_important():
    sketch = Sketch()
    root = sketch.call("")
    for index in range(500):
        sketch.call(str(index), f"Type{index}", inside=root)
    entries = folded(_profile(sketch), important={250})
    assert len(entries) <= 48
    assert entries[:3] == [0, 1, 2]
    assert entries[-1] == 500
    assert 250 in entries


def test_blocks_with_something_important_are_opened_before_others():
    sketch = Sketch()
    root = sketch.call("")
    for index in range(20):
        block = sketch.call(str(index), f"Block{index}", inside=root)
        for child in range(6):
            sketch.call(f"{index}.{child}", f"Type{child}", inside=block)
    rows = _profile(sketch)
    important = next(i for i, row in enumerate(rows) if row.module == "10.3")
    entries = folded(rows, important={important})
    assert important in entries
    assert sum(isinstance(entry, Fold) and entry.is_inside for entry in entries) > 10
    assert len(entries) <= 48


def test_experts_with_different_numbers_of_tokens_fold_together():
    sketch = Sketch()
    root = sketch.call("")
    for index in range(40):
        sketch.call(f"experts.{index}", "Expert", inside=root, shape=(index + 1, 8))
    (fold,) = [entry for entry in folded(_profile(sketch)) if isinstance(entry, Fold)]
    assert fold.num_repeats == 38


@st.composite
def _trees(draw):
    """Calls of a random nesting, of few types, so that some of it repeats."""
    sketch = Sketch()
    path = [sketch.call("")]
    for index in range(draw(st.integers(0, 120))):
        del path[draw(st.integers(1, len(path))) :]
        kind = draw(st.sampled_from("ABC"))
        path.append(sketch.call(str(index), kind, inside=path[-1], weight=0.1))
    return sketch


@given(_trees(), st.sets(st.integers(0, 120)))
def test_every_call_is_shown_or_folded_exactly_once_and_in_order(sketch, important):
    rows = _profile(sketch)
    entries = folded(rows, important)
    assert _covered(entries) == list(range(len(rows)))
    assert len(entries) <= max(48, 30)


@given(_trees(), st.data())
def test_folding_never_hides_a_finding(sketch, data):
    recording = sketch.build()
    modules = data.draw(st.lists(st.sampled_from([call.module for call in recording.calls]), max_size=5))
    found = [
        finding(f"HW{501 + index}", module, severity=data.draw(st.sampled_from(Severity)))
        for index, module in enumerate(modules)
    ]
    document = document_of(recording, *found)
    assert {code for row in document.rows for code in row.codes} == {f.code for f in found}
    for row in document.rows:
        named = " ".join(row.details)
        assert all(f.code in row.codes for f in found if f.code in named)
    for f in found:
        if f.severity >= Severity.WARNING:
            places = [row for row in document.rows if f.code in row.codes]
            assert all(row.kind != "fold" or any(f.code in detail for detail in row.details) for row in places)


def test_nesting_thousands_of_levels_deep_is_no_problem():
    sketch = Sketch()
    caller = sketch.call("")
    for index in range(3000):
        caller = sketch.call(str(index), "Wrapper", inside=caller)
    rows = _profile(sketch)
    assert _covered(folded(rows)) == list(range(3001))
