"""Folds repeated blocks and the middle of long models, so that a table stays readable."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from headwater.analysis import ProfileRow
from headwater.recording import TensorStats

_MAX_UNFOLDED = 30  # rows that anybody reads
_MAX_ROWS = 48  # with the findings below them, less than two screens
_MIN_REPEATS = 3  # a first, a last, and at least one that a fold stands for
_MIN_HIDDEN = 3  # rows; a fold takes a line itself
_LEAST_CUT = 9  # lines in which the ends of a block that does not fit are worth showing
_MAX_CHOSEN = 8  # rows out of the middle that are shown for their findings
_MAX_PERIOD = 8  # convolution, normalisation, activation, ... as siblings


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows that one line stands for.

    Args:
        start, stop: the rows, `stop` excluded.
        first, last: rows of the first and the last sibling among them.
        num_repeats: how many blocks like those around it they are; 0 where the table was cut for its length.
        period: how many siblings make up one of these blocks.
        is_inside: they are all that the row before called.
    """

    start: int
    stop: int
    first: int
    last: int
    num_repeats: int = 0
    period: int = 0
    is_inside: bool = False


def folded(rows: Sequence[ProfileRow], important: Collection[int] = ()) -> list[int | Fold]:
    """Indices of the rows to show, and the folds between them, in time linear in the rows.

    Of consecutive siblings that repeat the same structure (types, shapes, weights, and whether a gradient arrives), alone
    or in a period of up to eight, the first and the last are shown. If that is still too long, blocks stay closed.

    Args:
        rows: the profile.
        important: indices of rows whose blocks are opened before others.
    """
    if len(rows) <= _MAX_UNFOLDED:
        return list(range(len(rows)))
    tree = _Tree(rows)
    entries = tree.folded()
    if len(entries) <= _MAX_ROWS:
        return entries
    return _Outline(entries, rows, tree.stop, important).entries()


class _Tree:
    """The rows as a tree: a row's children are the deeper rows that follow it."""

    def __init__(self, rows: Sequence[ProfileRow]) -> None:
        self.children: list[list[int]] = [[] for _ in rows]
        self.stop = [0] * len(rows)
        self._structure = [0] * len(rows)  # equal numbers: equal subtrees
        known: dict[tuple, int] = {}
        followers: list[int] = []  # roots of the subtrees behind the current row, the nearest last
        for index in range(len(rows) - 1, -1, -1):
            children = self.children[index]
            while followers and rows[followers[-1]].level > rows[index].level:
                children.append(followers.pop())
            followers.append(index)
            self.stop[index] = self.stop[children[-1]] if children else index + 1
            structure = (*_traits(rows[index]), *(self._structure[child] for child in children))
            self._structure[index] = known.setdefault(structure, len(known))
        self.roots = followers[::-1]

    def folded(self) -> list[int | Fold]:
        entries: list[int | Fold] = []
        pending: list[int | Fold] = self._folded_siblings(self.roots)[::-1]
        while pending:
            entry = pending.pop()
            entries.append(entry)
            if isinstance(entry, int):
                pending += self._folded_siblings(self.children[entry])[::-1]
        return entries

    def _folded_siblings(self, siblings: list[int]) -> list[int | Fold]:
        structures = [self._structure[sibling] for sibling in siblings]
        entries: list[int | Fold] = []
        position = 0
        while position < len(siblings):
            period, repeats = _repetition(structures, position)
            last = position + period * (repeats - 1)
            fold = self._fold(siblings, position + period, last, period) if repeats >= _MIN_REPEATS else None
            if fold is None or fold.stop - fold.start < _MIN_HIDDEN:
                entries.append(siblings[position])
                position += 1
            else:
                entries += [*siblings[position : position + period], fold, *siblings[last : last + period]]
                position = last + period
        return entries

    def _fold(self, siblings: list[int], start: int, stop: int, period: int) -> Fold:
        return Fold(
            siblings[start],
            siblings[stop],
            first=siblings[start],
            last=siblings[stop - 1],
            num_repeats=(stop - start) // period,
            period=period,
        )


def _traits(row: ProfileRow) -> tuple:
    # Without the batch, so that experts with different numbers of tokens are alike. A block that no gradient reaches is
    # not like one that has some: where it ends must show.
    shape = row.shape[1:] if row.shape else row.shape
    gradient = _state(row.activation_gradient)
    return (row.module_type, row.has_weights, row.trains, shape, gradient, _state(row.activation) == "non-finite")


def _state(stats: TensorStats | None) -> str:
    if stats is None:
        return "none"
    if stats.nonfinite_count:
        return "non-finite"
    return "zero" if stats.is_zero else "some"


def _repetition(structures: list[int], position: int) -> tuple[int, int]:
    """The period in which the structures repeat from a position on for longest, and how often they do."""
    best = (1, 1)
    for period in range(1, min(_MAX_PERIOD, len(structures) - position) + 1):
        block = structures[position : position + period]
        repeats = 1
        while structures[position + repeats * period : position + (repeats + 1) * period] == block:
            repeats += 1
        if period * (repeats - 2) > best[0] * (best[1] - 2):
            best = (period, repeats)
    return best


class _Outline:
    """The entries with as many blocks open as there is room for.

    Blocks open level by level; those with something important in them first, then those near either end of the model. Of
    a block with too many children those with something important, the first and the last are shown.
    """

    def __init__(
        self,
        entries: list[int | Fold],
        rows: Sequence[ProfileRow],
        stop: Sequence[int],
        important: Collection[int],
    ) -> None:
        self._entries = entries
        self._children: list[list[int]] = [[] for _ in entries]
        self._starts = [entry.start if isinstance(entry, Fold) else entry for entry in entries]
        self._stops = [entry.stop if isinstance(entry, Fold) else stop[entry] for entry in entries]
        self._num_important = list(accumulate((index in important for index in range(len(rows))), initial=0))
        self._roots: list[int] = []
        path: list[int] = []
        for index, start in enumerate(self._starts):
            while path and rows[self._starts[path[-1]]].level >= rows[start].level:
                path.pop()
            (self._children[path[-1]] if path else self._roots).append(index)
            path.append(index)

    def entries(self) -> list[int | Fold]:
        shown: dict[int, list[int | Fold]] = {}  # by block: its children, if it is open
        roots, cost = self._opened(self._roots, _MAX_ROWS)
        budget = _MAX_ROWS - cost
        frontier = self._blocks(roots)
        while frontier:
            opened = []
            for block in sorted(frontier, key=self._rank):
                room = budget + 1  # an open block saves the line that says what is inside
                if self._num_lines(self._children[block]) > room < _LEAST_CUT:
                    continue
                shown[block], cost = self._opened(self._children[block], room)
                budget = room - cost
                opened += self._blocks(shown[block])
            frontier = opened
        return self._written(roots, shown)

    def _blocks(self, children: list[int | Fold]) -> list[int]:
        return [child for child in children if isinstance(child, int) and self._children[child]]

    def _num_lines(self, children: Iterable[int]) -> int:
        """Lines that these entries take, closed."""
        return sum(2 if self._children[child] else 1 for child in children)

    def _opened(self, children: list[int], room: int) -> tuple[list[int | Fold], int]:
        """The children to show, with the middle folded where they are too many, and how many lines they take, closed."""
        num_lines = self._num_lines(children)
        if num_lines <= room:
            return list(children), num_lines
        chosen = set([child for child in children if self._has_important(child)][:_MAX_CHOSEN])
        room -= self._num_lines(chosen) + len(chosen) + 1  # and a fold before, between and behind them
        ends = [child for pair in zip(children, reversed(children), strict=True) for child in pair]
        for child in ends:
            if child not in chosen:
                room -= self._num_lines([child])
                if room < 0:
                    break
                chosen.add(child)
        return self._with_folds(children, chosen)

    def _with_folds(self, children: list[int], chosen: set[int]) -> tuple[list[int | Fold], int]:
        """The chosen children, with folds for those between them, and how many lines they take, closed."""
        shown: list[int | Fold] = []
        for is_chosen, group in groupby(children, key=chosen.__contains__):
            members = list(group)
            if is_chosen:
                shown += members
            else:
                first, last = self._starts[members[0]], self._starts[members[-1]]
                shown.append(Fold(first, self._stops[members[-1]], first, last))
        num_folds = sum(isinstance(child, Fold) for child in shown)
        return shown, self._num_lines(chosen) + num_folds

    def _has_important(self, entry: int) -> bool:
        return self._num_important[self._stops[entry]] > self._num_important[self._starts[entry]]

    def _rank(self, block: int) -> tuple[bool, int]:
        return (not self._has_important(block), min(block, len(self._entries) - 1 - block))

    def _written(self, roots: list[int | Fold], shown: dict[int, list[int | Fold]]) -> list[int | Fold]:
        written: list[int | Fold] = []
        pending = roots[::-1]
        while pending:
            child = pending.pop()
            if isinstance(child, Fold):
                written.append(child)
                continue
            written.append(self._entries[child])
            if child in shown:
                pending += shown[child][::-1]
            elif inside := self._children[child]:
                first, last = self._starts[inside[0]], self._starts[inside[-1]]
                written.append(Fold(first, self._stops[child], first, last, is_inside=True))
        return written
