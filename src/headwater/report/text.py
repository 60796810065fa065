"""Renders a document for a terminal, a pipe or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from headwater.findings import Severity
from headwater.report.document import Document
from headwater.report.finding_groups import FindingGroup
from headwater.report.glyphs import ASCII, UNICODE, Glyphs
from headwater.report.text_table import SEVERITY_STYLE, table_lines

_LEAST_WIDTH = 40
_MAX_GROUPS = 5  # with all they have to say; further ones in one line each


def render_text(
    document: Document, *, width: int = 80, color: bool = False, show_all: bool = False, ascii_only: bool = False
) -> str:
    """The document as text of at most `width` columns, with terminal colours where asked for.

    Args:
        document: what to show.
        width: columns, at least 40.
        color: with ANSI colours; nothing is said by colour alone.
        show_all: every call instead of folded blocks, every finding in full.
        ascii_only: for streams that cannot show Unicode.
    """
    stream = StringIO()
    console = Console(
        file=stream,
        width=max(width, _LEAST_WIDTH),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )
    console.print(TextReport(document, show_all=show_all, ascii_only=ascii_only))
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


@dataclass(frozen=True, slots=True)
class TextReport:
    """A document as something rich prints, at whatever width and in whatever encoding its console has.

    Args:
        document: what to show.
        show_all: every call instead of folded blocks, every finding in full.
        ascii_only: in ASCII even where the console could show more.
    """

    document: Document
    show_all: bool = False
    ascii_only: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        glyphs = ASCII if self.ascii_only or options.ascii_only else UNICODE
        yield from _header(self.document, glyphs)
        yield from _table(self.document, max(options.max_width, _LEAST_WIDTH), glyphs, show_all=self.show_all)
        yield from _findings(self.document, glyphs, show_all=self.show_all)
        yield from _limits(self.document, glyphs)


def _header(document: Document, glyphs: Glyphs) -> Iterator[RenderableType]:
    yield Text(f"Headwater: {glyphs.text(document.title)}", style="bold")
    yield Text(glyphs.text(glyphs.separator.join(document.facts)), style="dim")
    yield Text()
    mark = glyphs.healthy if document.is_healthy else glyphs.marks[document.severity or Severity.INFO]
    style = SEVERITY_STYLE[document.severity] if document.severity else "bold green" if document.is_healthy else "bold"
    answer = Table.grid(padding=(0, 1))
    answer.add_row(Text(mark, style=style), Text(glyphs.text(document.answer), style=style, overflow="fold"))
    if document.counts:
        answer.add_row("", Text(glyphs.separator.join(map(glyphs.text, document.counts)), overflow="fold"))
    yield answer
    yield Text()


def _table(document: Document, width: int, glyphs: Glyphs, *, show_all: bool) -> Iterator[RenderableType]:
    rows = document.all_rows if show_all else document.rows
    for line in table_lines(rows, width, glyphs):
        line.no_wrap = True
        line.overflow = "crop"
        yield line
    if any(row.gain_decades is not None for row in rows):
        yield Text("decades: log10 of the gradient's norm relative to the gradient at the output", style="dim")
    if document.num_hidden and not show_all:
        yield Text(
            f"{document.num_hidden:,} of {document.num_calls:,} calls are folded: --all or to_text(show_all=True) shows them",
            style="dim",
        )


def _findings(document: Document, glyphs: Glyphs, *, show_all: bool) -> Iterator[RenderableType]:
    for index, group in enumerate(document.findings):
        in_full = show_all or index < _MAX_GROUPS
        if in_full or index == _MAX_GROUPS:
            yield Text()
        if in_full:
            yield _finding(group if show_all else group.shortened(), glyphs)
        else:
            yield _title(group, glyphs).append(f": {glyphs.text(group.messages[0])}", style="default")


def _finding(group: FindingGroup, glyphs: Glyphs) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold", min_width=20)  # room for the numbers of remedies, whatever else there is
    for label, texts in (("what", group.messages), ("where", (", ".join(group.modules),)), ("why", group.causes)):
        for index, text in enumerate(texts):
            grid.add_row(f"  {label}" if index == 0 else "", Text(glyphs.text(text)))
    for index, remedy in enumerate(group.remedies):
        item = Table.grid(padding=(0, 1))
        item.add_row(f"{index + 1}.", Text(glyphs.text(remedy), overflow="fold"))
        grid.add_row("  do" if index == 0 else "", item)
    return Group(_title(group, glyphs), grid)


def _title(group: FindingGroup, glyphs: Glyphs) -> Text:
    title = Text(f"{glyphs.marks[group.severity]} {group.code} {group.name}", style=SEVERITY_STYLE[group.severity])
    return title.append(f" ({group.severity.name.lower()})", style="default not bold")


def _limits(document: Document, glyphs: Glyphs) -> Iterator[RenderableType]:
    """What was looked for in vain, what could not be judged, and what could not be observed."""
    items = [("no finding", ", ".join(document.passed))] if document.passed else []
    items += [("not judged", f"{', '.join(rules)}: {reason}") for reason, rules in document.not_applicable]
    items += [("not observed", note) for note in document.notes]
    if not items:
        return
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    previous = ""
    for label, text in items:
        grid.add_row(label if label != previous else "", Text(glyphs.text(text)), style="dim")
        previous = label
    yield Text()
    yield grid
