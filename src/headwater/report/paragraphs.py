"""Breaks paragraphs into lines; one may begin with a label, below which its other lines are left blank."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

from rich.console import Console
from rich.text import Text

_WRAPPING = Console(file=StringIO(), width=80)  # wrapping a text asks a console for nothing but its tab size


def wrapped(text: Text, width: int) -> Iterator[Text]:
    """The lines of a paragraph of at most `width` columns; words that are longer than a line are folded."""
    return iter(text.wrap(_WRAPPING, max(width, 1), overflow="fold"))


def hanging(lead: Text, text: Text, width: int) -> Iterator[Text]:
    """The lines of a paragraph beside a label.

    >>> [line.plain for line in hanging(Text("why "), Text("the weights are small"), 15)]
    ['why the weights', '    are small']
    """
    for index, line in enumerate(wrapped(text, width - lead.cell_len)):
        yield Text().append_text(lead if index == 0 else Text(" " * lead.cell_len)).append_text(line)
