"""Folds repeated blocks and the middle of long models, so that a table stays readable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwater.analysis import ProfileRow

_MIN_REPEATS = 4  # first, last, and at least two that a fold line replaces
_MAX_PERIOD = 6  # Conv, BatchNorm, ReLU, ... as siblings
_MAX_ROWS = 60


@dataclass(frozen=True, slots=True)
class Folded:
    """Rows that one line stands for.

    Args:
        start, stop: the rows, `stop` excluded.
        num_repeats: how many blocks like the ones around it they are; 0 where the middle of a long table was cut.
        last: the row that begins the last sibling among them.
    """

    start: int
    stop: int
    num_repeats: int
    last: int


def folded(rows: Sequence[ProfileRow]) -> list[int | Folded]:
    """Indices of the rows to show, and the folds between them.

    Of consecutive siblings that repeat the same types and weights, alone or in a period of up to six, the first and the last
    are shown. What is still too long is cut in the middle.
    """
    return _cut(list(_folded(rows, _subtrees(rows, 0, len(rows)))))


def _folded(rows: Sequence[ProfileRow], siblings: list[tuple[int, int]]) -> Iterator[int | Folded]:
    """Folds a list of sibling subtrees, each given as (start, stop)."""
    signatures = [_signature(rows, start, stop) for start, stop in siblings]
    position = 0
    while position < len(siblings):
        period, repeats = _repetition(signatures, position)
        if repeats < _MIN_REPEATS:
            yield from _unfolded(rows, siblings[position])
            position += 1
            continue
        last = position + period * (repeats - 1)
        for sibling in siblings[position : position + period]:
            yield from _unfolded(rows, sibling)
        start, stop = siblings[position + period][0], siblings[last][0]
        yield Folded(start, stop, num_repeats=repeats - 2, last=siblings[last - 1][0])
        for sibling in siblings[last : last + period]:
            yield from _unfolded(rows, sibling)
        position = last + period


def _unfolded(rows: Sequence[ProfileRow], subtree: tuple[int, int]) -> Iterator[int | Folded]:
    start, stop = subtree
    yield start
    yield from _folded(rows, _subtrees(rows, start + 1, stop))


def _subtrees(rows: Sequence[ProfileRow], start: int, stop: int) -> list[tuple[int, int]]:
    """The subtrees of a run of rows: each row with the deeper rows that follow it."""
    if start >= stop:
        return []
    level = rows[start].level
    starts = [index for index in range(start, stop) if rows[index].level <= level]
    return list(zip(starts, [*starts[1:], stop], strict=True))


def _signature(rows: Sequence[ProfileRow], start: int, stop: int) -> int:
    level = rows[start].level
    return hash(tuple((row.level - level, row.module_type, row.has_weights, row.shape) for row in rows[start:stop]))


def _repetition(signatures: list[int], position: int) -> tuple[int, int]:
    """The smallest period in which the signatures repeat from a position on often enough, and how often."""
    for period in range(1, _MAX_PERIOD + 1):
        block = signatures[position : position + period]
        if len(block) < period:
            break
        repeats = 1
        while signatures[position + repeats * period : position + (repeats + 1) * period] == block:
            repeats += 1
        if repeats >= _MIN_REPEATS:
            return period, repeats
    return 1, 1


def _cut(entries: list[int | Folded]) -> list[int | Folded]:
    if len(entries) <= _MAX_ROWS:
        return entries
    head, tail = entries[: _MAX_ROWS // 2], entries[-_MAX_ROWS // 2 :]
    start, stop = _edge(entries[_MAX_ROWS // 2]), _edge(tail[0])
    return [*head, Folded(start, stop, num_repeats=0, last=stop - 1), *tail]


def _edge(entry: int | Folded) -> int:
    return entry.start if isinstance(entry, Folded) else entry
