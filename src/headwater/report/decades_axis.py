"""The axis of a report's bars: decades from the gradient at the output, losses to the left and growth to the right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headwater.report.numbers import decades
from headwater.report.table_row import TableRow

_LEAST_SPAN_DECADES = 3
_SAME_DECADES = 0.05  # written as 0.0


@dataclass(frozen=True, slots=True)
class DecadesAxis:
    """Whole decades at both ends; 0, the gradient at the output, lies between them.

    Args:
        low: at the left end, at most 0.
        high: at the right end, at least 0.
    """

    low: int
    high: int

    def position(self, gain_decades: float) -> float:
        """Where a gain lies between the ends, from 0 to 1; an exactly zero gradient at the left end.

        >>> DecadesAxis(-3, 1).position(-1.0), DecadesAxis(-3, 1).position(float("-inf"))
        (0.5, 0.0)
        """
        inside = min(max(gain_decades, self.low), self.high)
        return (inside - self.low) / (self.high - self.low)


def decades_axis(rows: Iterable[TableRow]) -> DecadesAxis:
    """The axis that all bars of a table fit on; it is at least three decades long.

    >>> decades_axis([TableRow(level=0, name="a", gain_decades=gain) for gain in (-5.2, 0.3)])
    DecadesAxis(low=-6, high=1)
    >>> decades_axis([])
    DecadesAxis(low=-3, high=0)
    """
    gains = [gain for row in rows for gain in _gains(row)]
    finite = [gain for gain in gains if math.isfinite(gain) and abs(gain) >= _SAME_DECADES]
    low = math.floor(min([0.0, *finite]))
    high = math.ceil(max([0.0, *finite]))
    if -math.inf in gains:
        low = min(low, -1)  # where the zeros go
    return DecadesAxis(min(low, high - _LEAST_SPAN_DECADES), high)


def axis_label(axis: DecadesAxis, width: int, zero: int) -> str:
    """The ends and the zero of an axis of `width` characters, as far as there is room.

    Args:
        axis: what to label.
        width: of the label.
        zero: index of the character that stands for 0.

    >>> axis_label(DecadesAxis(-17, 2), 12, 8)
    '-17     0 +2'
    """
    label = [" "] * width
    taken: Sequence[tuple[int, str]] = (
        (zero, "0"),
        (0, f"{axis.low}" if axis.low else ""),
        (width - len(f"+{axis.high}"), f"+{axis.high}" if axis.high else ""),
    )
    for start, text in taken:
        around = label[max(start - 1, 0) : start + len(text) + 1]
        if 0 <= start <= width - len(text) and not "".join(around).strip():
            label[start : start + len(text)] = text
    return "".join(label)


def range_text(gain_range_decades: tuple[float, float]) -> str:
    """Smallest and largest gain of several calls; one number where they are the same.

    >>> range_text((-2.01, 0.7)), range_text((-2.0, -2.0))
    ('-2.0 to +0.7', '-2.0')
    """
    low, high = map(decades, gain_range_decades)
    return low if low == high else f"{low} to {high}"


def _gains(row: TableRow) -> tuple[float, ...]:
    if row.gain_range_decades is not None:
        return row.gain_range_decades
    return () if row.gain_decades is None else (row.gain_decades,)
