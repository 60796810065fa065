"""Renders a comparison as text for terminals, pipes and files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from headwater.lab.comparison_document import ComparisonDocument, Section
from headwater.report.printable import printable_ascii, shortened

_LEAST_NAME = 16


def render_text(document: ComparisonDocument, *, width: int = 80, ascii_only: bool = False) -> str:
    """The document as text, with a line break at its end.

    Args:
        document: what to show.
        width: columns that sentences are wrapped to, at least 40; a table that needs more is wider.
        ascii_only: for terminals and files that cannot show Unicode.

    >>> from headwater.lab.comparison_document import ComparisonDocument
    >>> print(render_text(ComparisonDocument("title", ("a fact",), (), "All is well.", (), ()), ascii_only=True), end="")
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
    yield from _wrapped(" · ".join(document.facts), width)
    for variant in document.variants:
        yield from _wrapped(variant, width, initial_indent="  ", subsequent_indent="    ")
    if document.verdict:
        yield ""
        yield from _wrapped(document.verdict, width)
    for section in document.sections:
        yield ""
        yield from _section(section, width)
    if document.remarks:
        yield ""
        yield "theory, beside the first seed"
        for remark in document.remarks:
            yield from _wrapped(remark, width, initial_indent="  ", subsequent_indent="    ")


def _wrapped(text: str, width: int, *, initial_indent: str = "", subsequent_indent: str = "") -> list[str]:
    """Lines that end neither between a number and its × nor at a hyphen."""
    lines = textwrap.wrap(
        text.replace(" ×", "\u00a0×"),
        width,
        initial_indent=initial_indent,
        subsequent_indent=subsequent_indent,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0×", " ×") for line in lines]


def _section(section: Section, width: int) -> Iterator[str]:
    yield from _wrapped(section.heading, width)
    table = [section.columns, *section.rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(section.columns))]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    if excess > 0 and widths[0] > _LEAST_NAME:  # names are shortened where a table is too wide, numbers are not
        widths[0] = max(widths[0] - excess, _LEAST_NAME)
    for index, (name, *numbers) in enumerate(table):
        cells = [text.rjust(size) for text, size in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([shortened(name, widths[0]).ljust(widths[0]), *cells]).rstrip()
        if not index:
            yield "─" * (sum(widths) + 2 * (len(widths) - 1))
    if section.note:
        yield from _wrapped(section.note, width)
