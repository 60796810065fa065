"""Renders a document for a terminal, a pipe or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from headwater.findings import Severity
from headwater.report.document import Document
from headwater.report.finding_groups import FindingGroup
from headwater.report.glyphs import ASCII, UNICODE, Glyphs
from headwater.report.paragraphs import hanging, wrapped
from headwater.report.places import place
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
    report = TextReport(document, show_all=show_all, ascii_only=ascii_only)
    width = max(width, _LEAST_WIDTH)
    if not color:
        lines = (line.plain for line in report.lines(width, ASCII if ascii_only else UNICODE))
    else:
        stream = StringIO()
        console = Console(
            file=stream, width=width, force_terminal=True, color_system="standard", no_color=False, legacy_windows=False
        )
        console.print(report)
        lines = stream.getvalue().splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


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
        for line in self.lines(max(options.max_width, _LEAST_WIDTH), glyphs):
            line.no_wrap = True
            line.overflow = "crop"
            yield line

    def lines(self, width: int, glyphs: Glyphs) -> Iterator[Text]:
        """Every line, none wider than `width` columns."""
        for paragraph in (_header, _table, _over_time, _findings, _limits):
            yield from paragraph(self.document, width, glyphs, self.show_all)


def _header(document: Document, width: int, glyphs: Glyphs, _show_all: bool) -> Iterator[Text]:
    yield from wrapped(Text(f"Headwater: {glyphs.text(document.title)}", style="bold"), width)
    yield from wrapped(Text(glyphs.text(glyphs.separator.join(document.facts)), style="dim"), width)
    yield Text()
    mark = glyphs.healthy if document.is_healthy else glyphs.marks[document.severity or Severity.INFO]
    style = SEVERITY_STYLE[document.severity] if document.severity else "bold green" if document.is_healthy else "bold"
    yield from hanging(Text(f"{mark} ", style=style), Text(glyphs.text(document.answer), style=style), width)
    for remark in document.remarks:
        yield from hanging(Text(" " * (cell_len(mark) + 1)), Text(glyphs.text(remark)), width)
    if document.counts:
        counts = Text(glyphs.separator.join(map(glyphs.text, document.counts)))
        yield from hanging(Text(" " * (cell_len(mark) + 1)), counts, width)
    yield Text()


def _table(document: Document, width: int, glyphs: Glyphs, show_all: bool) -> Iterator[Text]:
    rows = document.all_rows if show_all else document.rows
    yield from table_lines(rows, width, glyphs)
    remarks = []
    if any(row.gain_decades is not None for row in rows):
        remarks.append("decades: log10 of the gradient's norm relative to the gradient at the output")
    if document.num_hidden and not show_all:
        folded = f"{document.num_hidden:,} of {document.num_calls:,} calls are folded"
        remarks.append(f"{folded}: --all or to_text(show_all=True) shows them")
    for remark in remarks:
        yield from wrapped(Text(remark, style="dim"), width)


def _over_time(document: Document, width: int, glyphs: Glyphs, _show_all: bool) -> Iterator[Text]:
    if document.over_time:
        yield Text()
        yield from wrapped(Text("over time (from the first step to the last)", style="dim"), width)
    for row in document.over_time:
        chart = Text(f"  {row.drawn(glyphs.levels)}{' ' if row.heights else ''}", style="blue")
        if chart.cell_len > width // 2:
            chart = Text("  ")
        yield from hanging(chart, Text(glyphs.text(row.text)), width)


def _findings(document: Document, width: int, glyphs: Glyphs, show_all: bool) -> Iterator[Text]:
    for index, group in enumerate(document.findings):
        in_full = show_all or index < _MAX_GROUPS
        if in_full or index == _MAX_GROUPS:
            yield Text()
        if in_full:
            yield from _finding(group if show_all else group.shortened(), width, glyphs)
        else:
            brief = _title(group, glyphs).append(f": {glyphs.text(group.messages[0])}", style="default")
            yield from wrapped(brief, width)


def _finding(group: FindingGroup, width: int, glyphs: Glyphs) -> Iterator[Text]:
    yield from wrapped(_title(group, glyphs), width)
    lines = tuple(f"{place(line)}{f'  {line.code}' if line.code else ''}" for line in group.lines)
    where = (", ".join(group.modules),)
    for label, texts in (("what", group.messages), ("where", where), ("line", lines), ("why", group.causes)):
        for index, text in enumerate(texts):
            yield from hanging(Text(_label(label, index), style="dim"), Text(glyphs.text(text)), width)
    for index, remedy in enumerate(group.remedies):
        lead = Text(_label("do", index), style="dim").append(f"{index + 1}. ", style="default not dim")
        yield from hanging(lead, Text(glyphs.text(remedy)), width)


def _label(label: str, index: int) -> str:
    """Said once, for the first of the lines that it is about."""
    return f"  {label if index == 0 else '':5} "


def _title(group: FindingGroup, glyphs: Glyphs) -> Text:
    title = Text(f"{glyphs.marks[group.severity]} {group.code} {group.name}", style=SEVERITY_STYLE[group.severity])
    return title.append(f" ({group.severity.name.lower()})", style="default not bold")


def _limits(document: Document, width: int, glyphs: Glyphs, _show_all: bool) -> Iterator[Text]:
    """What was looked for in vain, what could not be judged, and what could not be observed."""
    items = [("no finding", ", ".join(document.passed))] if document.passed else []
    items += [("not judged", f"{', '.join(rules)}: {reason}") for reason, rules in document.not_applicable]
    items += [("not observed", note) for note in document.notes]
    previous = None
    indent = max((len(label) for label, _ in items), default=0)
    for label, text in items:
        if previous is None:
            yield Text()
        lead = label if label != previous else ""
        yield from hanging(Text(f"{lead:{indent}} ", style="dim"), Text(glyphs.text(text), style="dim"), width)
        previous = label
