"""Which columns a table of text has, and how wide they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from headwater.report.decades_axis import range_text
from headwater.report.glyphs import Glyphs
from headwater.report.numbers import decades
from headwater.report.table_row import RowKind, TableRow
from headwater.report.tree_guides import Guide

_LEAST_NAME = 16
_LEAST_BAR = 8
_ROOMY_BAR = 12  # before columns stand further apart
_MOST_BAR = 25
_MOST_SHAPE = 13
_MOST_FLAGS = 14
_LEFT_OUT_FIRST = ("shape", "weight", "rms", "bar", "norm")


@dataclass(frozen=True, slots=True)
class Columns:
    """The width of each column, in the order they stand; 0 for one that is left out.

    Args:
        name: of the module, with its place in the tree.
        shape, rms, norm, decades, bar, weight, flags: what `TableRow` has to say.
        gap: spaces between two columns.
    """

    name: int
    shape: int
    rms: int
    norm: int
    decades: int
    bar: int
    weight: int
    flags: int
    gap: int = 1

    def shown(self) -> list[str]:
        """The names of the columns that are not left out."""
        return [name for name in _NAMES if getattr(self, name)]

    def span(self, names: Iterable[str]) -> int:
        """How wide these neighbours are together with the gaps between them."""
        widths = [width for name in names if (width := getattr(self, name))]
        return sum(widths) + self.gap * max(len(widths) - 1, 0)


_NAMES = ("name", "shape", "rms", "norm", "decades", "bar", "weight", "flags")


def fitted_columns(rows: Sequence[TableRow], guides: Sequence[Guide], width: int, glyphs: Glyphs) -> Columns:
    """The columns of a table that is at most `width` wide.

    Where there is too little room, gaps and bars shrink first, then flags take several lines and names are shortened;
    then columns are left out: shape, weight gradient, forward RMS, bar.
    """
    natural = _natural(rows, guides, glyphs)
    for gap, least_bar in ((2, _ROOMY_BAR), (1, _LEAST_BAR)):
        roomy = replace(natural, gap=gap, bar=least_bar if natural.bar else 0)
        spare = width - roomy.span(_NAMES)
        if spare >= 0:
            return replace(roomy, bar=min(roomy.bar + spare, _MOST_BAR)) if natural.bar else roomy
    flags = max(_longest(flag for row in rows for flag in _flags(row)), len("flags"))
    fitted = replace(natural, flags=min(natural.flags, flags))
    for column in _LEFT_OUT_FIRST:
        if _room_for_name(fitted, width) < min(natural.name, _LEAST_NAME):
            fitted = replace(fitted, **{column: 0})
    return replace(fitted, name=max(min(_room_for_name(fitted, width), natural.name), 1))


def _flags(row: TableRow) -> tuple[str, ...]:
    return row.codes if row.kind is RowKind.UNCALLED else (*row.codes, *row.remarks)


def _room_for_name(columns: Columns, width: int) -> int:
    return width - columns.span(_NAMES) + columns.name


def _natural(rows: Sequence[TableRow], guides: Sequence[Guide], glyphs: Glyphs) -> Columns:
    has_gradients = any(row.gradient_norm for row in rows)
    has_gains = any(row.gain_decades is not None for row in rows)
    has_weights = any(row.weight_gradient for row in rows)
    ranges = [range_text(row.gain_range_decades) for row in rows if row.gain_range_decades is not None]
    norm = max(len("gradient"), _longest(row.gradient_norm for row in rows))
    gain = max(len("output"), _longest(decades(row.gain_decades) for row in rows), _longest(ranges) - norm - 1)
    flags = _longest(" ".join(_flags(row)) for row in rows)
    names = [
        len(guide.first) + cell_len(glyphs.text(f"{row.name} {row.type}".rstrip()))
        for row, guide in zip(rows, guides, strict=True)
        if row.kind is not RowKind.FOLD
    ]
    columns = Columns(
        name=max([len("module"), *names]),
        shape=min(max(len("shape"), _longest(row.shape for row in rows)), _MOST_SHAPE),
        rms=max(len("forward"), _longest(row.activation_rms for row in rows)),
        norm=norm if has_gradients else 0,
        decades=gain if has_gains else 0,
        bar=_LEAST_BAR if has_gains else 0,
        weight=max(len("mean abs"), _longest(row.weight_gradient for row in rows)) if has_weights else 0,
        flags=min(max(flags, len("flags")), _MOST_FLAGS) if flags else 0,
    )
    beside_fold = columns.span(("shape", "rms")) + columns.gap
    folds = [
        len(guide.first) + cell_len(glyphs.text(row.name)) - beside_fold
        for row, guide in zip(rows, guides, strict=True)
        if row.kind is RowKind.FOLD
    ]
    return replace(columns, name=max([columns.name, *folds]))


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)
