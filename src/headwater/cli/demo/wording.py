"""How the demo writes headings, paragraphs and numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headwater.lab.paired_statistics import Median

if TYPE_CHECKING:
    from rich.console import Console


def heading(page: Console, text: str) -> None:
    """Prints a chapter's heading, with a line below it.

    >>> from rich.console import Console
    >>> heading(Console(width=9), "1. First")
    <BLANKLINE>
    1. First
    ─────────
    """
    page.print(f"\n[bold]{text}[/]\n{'─' * page.width}")


def subheading(page: Console, text: str) -> None:
    """Prints a section's heading after an empty line.

    >>> from rich.console import Console
    >>> subheading(Console(), "side by side")
    <BLANKLINE>
    side by side
    """
    page.print(f"\n[bold]{text}[/]")


def paragraph(page: Console, text: str) -> None:
    """Prints text, wrapped.

    >>> from rich.console import Console
    >>> paragraph(Console(width=9), "one [1, 2] three")
    one [1,
    2] three
    """
    page.print(textwrap.fill(text, page.width), markup=False)


def bullet(page: Console, text: str) -> None:
    """Prints an item of a list, its lines indented.

    >>> from rich.console import Console
    >>> bullet(Console(width=9), "one and two")
    • one and
      two
    """
    page.print(textwrap.fill(text, page.width, initial_indent="• ", subsequent_indent="  "), markup=False)


def table(page: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 0) -> None:
    """Prints rows under their columns' names, right-aligned but for the first `num_left` columns.

    >>> from rich.console import Console
    >>> table(Console(), ("name", "value"), [("a", "1"), ("b", "10")], num_left=1)
    name value
    a        1
    b       10
    """
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index < num_left else "right")
    for row in rows:
        grid.add_row(*row)
    page.print(grid)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits.

    >>> number(0.00012), number(1.3268), number(262.8)
    ('0.000120', '1.33', '263')
    """
    return f"{value:#.{digits}g}".removesuffix(".")


def times(ratio: float, digits: int = 3) -> str:
    """A ratio with its sign.

    >>> times(87.456), times(1.0)
    ('87.5 ×', '1.00 ×')
    """
    return f"{number(ratio, digits)} ×"


def interval(median: Median, unit: str = "") -> str:
    """A median with its interval, two significant digits each.

    >>> interval(Median(80.79, 56.4, 98.6), " ×")
    '81 × [56, 99]'
    """
    return f"{number(median.value, 2)}{unit} [{number(median.low, 2)}, {number(median.high, 2)}]"
