"""Renders a comparison as text for terminals, pipes and files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from headwater.lab.comparison_document import ComparisonDocument, Section
from headwater.report.printable import printable_ascii


def render_text(document: ComparisonDocument, *, width: int = 80, ascii_only: bool = False) -> str:
    """The document as text, with a line break at its end.

    Args:
        document: what to show.
        width: columns that sentences are wrapped to, at least 40; a table that needs more is wider.
        ascii_only: for terminals and files that cannot show Unicode.

    >>> from headwater.lab.comparison_document import ComparisonDocument
    >>> print(render_text(ComparisonDocument("title", ("a fact",), "All is well.", (), ()), ascii_only=True), end="")
    title
    a fact
    <BLANKLINE>
    All is well.
    """
    text = "\n".join(_lines(document, max(width, 40))) + "\n"
    if ascii_only:
        text = "\n".join(map(printable_ascii, text.replace("─", "-").split("\n")))
    return text


def _lines(document: ComparisonDocument, width: int) -> Iterator[str]:
    yield document.title
    yield from textwrap.wrap(" · ".join(document.facts), width)
    if document.verdict:
        yield ""
        yield from textwrap.wrap(document.verdict, width)
    for section in document.sections:
        yield ""
        yield from _section(section, width)
    if document.remarks:
        yield ""
        yield "theory, beside the first seed"
        for remark in document.remarks:
            yield from textwrap.wrap(remark, width, initial_indent="  ", subsequent_indent="    ")


def _section(section: Section, width: int) -> Iterator[str]:
    yield from textwrap.wrap(section.heading, width)
    table = (section.columns, *section.rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(section.columns))]
    for index, row in enumerate(table):
        cells = [
            cell.ljust(size) if not column or size > 40 else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
        if not index:
            yield "─" * min(sum(widths) + 2 * len(widths) - 2, width)
    if section.note:
        yield from textwrap.wrap(section.note, width)
