"""The lines that connect a module with those it calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headwater.report.glyphs import Glyphs
from headwater.report.table_row import RowKind, TableRow

_MAX_LEVELS = 10


class Guide(NamedTuple):
    """What stands before a module's name.

    Args:
        first: on the row's first line.
        more: on further lines of the same row.
    """

    first: str
    more: str


def tree_guides(rows: Sequence[TableRow], glyphs: Glyphs) -> list[Guide]:
    """The guides of each row. Of more than ten levels the innermost are drawn.

    >>> from headwater.report.glyphs import UNICODE
    >>> rows = [TableRow(level=level, name="") for level in (0, 1, 2, 1)]
    >>> [guide.first for guide in tree_guides(rows, UNICODE)]
    ['', '├ ', '│ └ ', '└ ']
    """
    guides: list[Guide] = []
    goes_on: list[bool] = []  # for each level, whether a row further down continues its trunk
    for row in reversed(rows):
        level = row.level
        goes_on = [*goes_on[: level + 1], *[False] * (level + 1 - len(goes_on))]
        is_last = not goes_on[level]
        first_level = max(1, level - _MAX_LEVELS + 1)
        trunks = "".join(glyphs.trunk if goes_on[above] else glyphs.gap for above in range(first_level, level))
        end = glyphs.gap if is_last else glyphs.trunk
        connection = glyphs.last_branch if is_last else glyphs.branch
        if row.kind is RowKind.FOLD:
            connection = end = glyphs.fold
        goes_on[level] = True
        guides.append(Guide(f"{trunks}{connection}", f"{trunks}{end}") if level else _root(row, glyphs))
    return guides[::-1]


def _root(row: TableRow, glyphs: Glyphs) -> Guide:
    return Guide(glyphs.fold, glyphs.fold) if row.kind is RowKind.FOLD else Guide("", "")
