"""Renders a document for a terminal, a pipe or a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headwater.findings import Finding, Severity
from headwater.report.document import Document, TableRow
from headwater.report.numbers import decades
from headwater.report.printable import listed, printable

_BAR_CELLS = 6
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "cyan"}
_LEAST_SPAN_DECADES = 3.0  # bars of a healthy model look full


def render_text(document: Document, *, width: int = 80, color: bool = False, show_all: bool = False) -> str:
    """The document as text of at most `width` columns, with terminal colours where asked for.

    Args:
        document: what to show.
        width: columns, at least 40.
        color: with ANSI colours; nothing is said by colour alone.
        show_all: every call instead of folded blocks.
    """
    stream = StringIO()
    console = Console(
        file=stream,
        width=max(width, 40),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(renderable(document, show_all=show_all))
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def renderable(document: Document, *, show_all: bool = False) -> RenderableType:
    """The document as something rich prints, at whatever width its console has."""
    return Group(*_parts(document, show_all=show_all))


def _parts(document: Document, *, show_all: bool) -> Iterator[RenderableType]:
    yield Text(printable(document.title), style="bold")
    yield Text(printable(document.facts), style="dim")
    worst = document.findings[0].severity if document.findings else None
    yield Text(printable(document.answer), style=_STYLE[worst] if worst else "bold green")
    yield Text()
    rows = document.all_rows if show_all else document.rows
    yield _table(rows)
    yield Text("decades: log10 of the gradient's norm, relative to the gradient at the output", style="dim")
    if not show_all and len(rows) < len(document.all_rows):
        yield Text(
            f"{len(document.all_rows) - sum(not row.is_fold for row in rows)} calls are folded (--all or "
            "to_text(show_all=True) shows them)",
            style="dim",
        )
    for finding in document.findings:
        yield Text()
        yield _finding(finding)
    if document.not_applicable or document.notes:
        yield Text()
    for code, reason in document.not_applicable:
        yield _item(f"{code} not applicable:", reason)
    for note in document.notes:
        yield _item("Not observed:", note)


def _table(rows: Sequence[TableRow]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    # Only this column may shrink; its cells end in an ellipsis (they forbid wrapping themselves).
    table.add_column("module", overflow="ellipsis", min_width=16)
    table.add_column("shape", no_wrap=True, overflow="ellipsis", max_width=11)
    table.add_column("fwd RMS", justify="right", no_wrap=True)
    table.add_column("gradient", justify="right", no_wrap=True)
    table.add_column("decades", no_wrap=True)
    table.add_column("mean|dW|", justify="right", no_wrap=True)
    if any(row.flags for row in rows):
        table.add_column("flags", max_width=12)
    scale = _Scale(rows)
    for row in rows:
        style = "dim" if row.is_fold else ""
        cells = [
            _module(row),
            row.shape,
            row.activation_rms,
            row.gradient_norm,
            scale.bar(row),
            row.weight_gradient,
            Text(" ".join(row.flags), style=_STYLE[row.severity] if row.severity else "dim"),
        ]
        table.add_row(*cells[: len(table.columns)], style=style)
    return table


def _module(row: TableRow) -> Text:
    text = Text("  " * min(row.level, 8), no_wrap=True, overflow="ellipsis")
    text.append(printable(row.name))
    if row.type:
        text.append(f" {printable(row.type)}", style="dim")
    return text


class _Scale:
    """Bars that are full at the largest gain shown and empty at the smallest."""

    def __init__(self, rows: Sequence[TableRow]) -> None:
        known = [row.gain_decades for row in rows if row.gain_decades is not None and math.isfinite(row.gain_decades)]
        self._high = max([0.0, *known])
        self._low = min([self._high - _LEAST_SPAN_DECADES, *known])

    def bar(self, row: TableRow) -> Text:
        if row.gain_range_decades is not None:
            return Text(" to ".join(decades(end) for end in row.gain_range_decades))
        gain_decades = row.gain_decades
        if gain_decades is None:
            return Text()
        share = 0.0
        if math.isfinite(gain_decades):
            share = (gain_decades - self._low) / (self._high - self._low)
        eighths = round(share * _BAR_CELLS * 8)
        full, rest = divmod(max(eighths, 0), 8)
        bar = ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(_BAR_CELLS)
        return Text(f"{decades(gain_decades):>5} {bar}")


def _finding(finding: Finding) -> RenderableType:
    title = Text(f"{finding.code} {finding.name}", style=_STYLE[finding.severity])
    title.append(f"  {finding.severity.name}")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("  what ", Text(printable(finding.message)))
    grid.add_row("  where", Text(listed(finding.modules)))
    grid.add_row("  why  ", Text(printable(finding.cause)))
    for number, remedy in enumerate(finding.remedies, start=1):
        grid.add_row("  do   " if number == 1 else "", Text(f"{number}. {printable(remedy)}"))
    return Group(title, grid)


def _item(label: str, text: str) -> Text:
    return Text.assemble((label, "dim"), " ", printable(text))
