"""How lines are told apart: colour, marker and dashes differ together, for grey print and colour-blind eyes."""

from __future__ import annotations

from typing import NamedTuple


class LineStyle(NamedTuple):
    """Of one line, with matplotlib's names."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[int, ...]]


# Colours: Okabe & Ito 2008, Color Universal Design. Their yellow is too light for a line on white.
LINE_STYLES = (
    LineStyle("#0072B2", "o", "-"),
    LineStyle("#D55E00", "s", "--"),
    LineStyle("#009E73", "^", "-."),
    LineStyle("#E69F00", "D", ":"),
    LineStyle("#CC79A7", "v", (0, (5, 1, 1, 1, 1, 1))),
    LineStyle("#56B4E9", "P", (0, (8, 2))),
    LineStyle("#000000", "X", (0, (1, 1))),
)


def line_style(index: int) -> LineStyle:
    """The style of the index-th line; from the eighth on they come again.

    >>> line_style(0).color, line_style(7) == line_style(0)
    ('#0072B2', True)
    """
    return LINE_STYLES[index % len(LINE_STYLES)]
