"""Lays the table of a report out as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from headwater.findings import Severity
from headwater.report.bars import band, bar, zero_index
from headwater.report.columns import Columns, fitted_columns
from headwater.report.decades_axis import DecadesAxis, axis_label, decades_axis, range_text
from headwater.report.glyphs import Glyphs
from headwater.report.numbers import decades
from headwater.report.printable import shortened
from headwater.report.table_row import RowKind, TableRow
from headwater.report.tree_guides import Guide, tree_guides

SEVERITY_STYLE: Mapping[Severity, str] = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFO: "bold cyan",
}
_BAR_STYLE = "cyan"  # dark blue cannot be read on black
_RIGHT = ("rms", "norm", "decades", "weight")
_NO_SPANS: Mapping[str, tuple[str, ...]] = {}
_HEAD_SPANS = {"decades": ("decades", "bar")}
_LEFT_SPANS = (("decades", "bar"),)
_FOLD_SPANS = {"name": ("name", "shape", "rms"), "norm": ("norm", "decades")}


def table_lines(rows: Sequence[TableRow], width: int, glyphs: Glyphs) -> Iterator[Text]:
    """The lines of a table, each at most `width` columns wide; nothing for no rows."""
    if not rows:
        return
    guides = tree_guides(rows, glyphs)
    table = _Table(fitted_columns(rows, guides, width, glyphs), decades_axis(rows), glyphs)
    yield from table.head()
    for row, guide in zip(rows, guides, strict=True):
        for line in table.lines(row, guide):
            line.truncate(width)
            line.rstrip()
            yield line


@dataclass(frozen=True, slots=True)
class _Table:
    """Draws rows in given columns."""

    columns: Columns
    axis: DecadesAxis
    glyphs: Glyphs

    def head(self) -> Iterator[Text]:
        bar_width = self.columns.bar
        upper = {"rms": "forward", "norm": "gradient", "decades": "decades from", "weight": "mean abs"}
        lower = {"name": "module", "shape": "shape", "rms": "RMS", "norm": "norm", "decades": "output"}
        lower |= {"weight": "dL/dW", "flags": "flags"}
        if bar_width:
            lower["bar"] = axis_label(self.axis, bar_width, zero_index(self.axis, bar_width))
        else:
            upper["decades"] = "vs."
        for texts, spans in ((upper, _HEAD_SPANS if bar_width else _NO_SPANS), (lower, _NO_SPANS)):
            line = self._line({column: Text(text) for column, text in texts.items()}, spans)
            line.rstrip()
            line.stylize("bold")
            yield line
        yield Text(self.glyphs.rule * self.columns.span(self.columns.shown()), style="dim")

    def lines(self, row: TableRow, guide: Guide) -> Iterator[Text]:
        if row.kind is RowKind.FOLD:
            return self._fold(row, guide)
        return self._uncalled(row, guide) if row.kind is RowKind.UNCALLED else self._call(row, guide)

    def _call(self, row: TableRow, guide: Guide) -> Iterator[Text]:
        cells = {
            "name": self._name(row, guide),
            "shape": Text(shortened(row.shape, self.columns.shape, self.glyphs.ellipsis)),
            "rms": Text(row.activation_rms),
            "norm": Text(row.gradient_norm),
            "decades": Text(decades(row.gain_decades)),
            "weight": Text(row.weight_gradient),
        }
        if row.gain_decades is not None and self.columns.bar:
            cells["bar"] = Text(bar(row.gain_decades, self.axis, self.columns.bar, self.glyphs), style=_BAR_STYLE)
        yield from self._with_flags(cells, row, guide, _NO_SPANS, (*row.codes, *row.remarks))

    def _uncalled(self, row: TableRow, guide: Guide) -> Iterator[Text]:
        cells = {"name": self._name(row, guide), "weight": Text(row.weight_gradient)}
        beside = [column for column in ("shape", "rms", "norm", "decades", "bar") if getattr(self.columns, column)]
        for column in beside[:1]:
            cells[column] = Text(" ".join(row.remarks), style="dim")
        yield from self._with_flags(cells, row, guide, {column: tuple(beside) for column in beside[:1]}, row.codes)

    def _fold(self, row: TableRow, guide: Guide) -> Iterator[Text]:
        spans = dict(_FOLD_SPANS)
        cells: dict[str, Text] = {}
        if row.gain_range_decades is None:
            spans["name"] = ("name", "shape", "rms", "norm", "decades", "bar", "weight")
        else:
            cells["norm"] = Text(range_text(row.gain_range_decades))
            if self.columns.bar:
                text = band(row.gain_range_decades, self.axis, self.columns.bar, self.glyphs)
                cells["bar"] = Text(text, style=_BAR_STYLE)
        room = self.columns.span(spans["name"]) - len(guide.first)
        cells["name"] = Text().append(guide.first, style="dim")
        cells["name"].append(_start(self.glyphs.text(row.name), room, self.glyphs.ellipsis), style="dim italic")
        yield from self._with_flags(cells, row, guide, spans, (*row.codes, *row.remarks))
        for detail in row.details:
            line = Text().append(f"{guide.more}  ", style="dim")
            yield line.append(self.glyphs.text(detail), style=SEVERITY_STYLE[row.severity or Severity.INFO])

    def _with_flags(
        self,
        cells: Mapping[str, Text],
        row: TableRow,
        guide: Guide,
        spans: Mapping[str, tuple[str, ...]],
        flags: Sequence[str],
    ) -> Iterator[Text]:
        """The row's line, and more where its flags need several."""
        code_style = SEVERITY_STYLE[row.severity] if row.severity else ""
        styled = [(flag, code_style if flag in row.codes else "dim") for flag in flags]
        lines = self._flags(styled)
        yield self._line({**cells, "flags": lines[0]}, spans)
        for more in lines[1:]:
            yield self._line({"name": Text(guide.more, style="dim"), "flags": more}, _NO_SPANS)

    def _flags(self, flags: Sequence[tuple[str, str]]) -> list[Text]:
        lines = [Text()]
        for flag, style in flags:
            if lines[-1] and lines[-1].cell_len + 1 + len(flag) > self.columns.flags:
                lines.append(Text())
            lines[-1].append(" " if lines[-1] else "").append(flag, style=style)
        return lines if self.columns.flags else [Text()]

    def _name(self, row: TableRow, guide: Guide) -> Text:
        room = self.columns.name - len(guide.first)
        name = shortened(self.glyphs.text(row.name), room, self.glyphs.ellipsis)
        text = Text().append(guide.first, style="dim").append(name)
        room -= cell_len(name) + 1
        kind = self.glyphs.text(row.type)
        if row.type and room >= min(cell_len(kind), 4):
            text.append(f" {_start(kind, room, self.glyphs.ellipsis)}", style="dim")
        return text

    def _line(self, cells: Mapping[str, Text], spans: Mapping[str, tuple[str, ...]]) -> Text:
        line = Text()
        plain = ""  # the end of the line that has no style, and is not appended yet
        covered: set[str] = set()
        for position, column in enumerate(self.columns.shown()):
            if column in covered:
                continue
            neighbours = spans.get(column, (column,))
            covered.update(neighbours)
            width = self.columns.span(neighbours)
            plain += " " * self.columns.gap if position else ""
            cell = cells.get(column)
            if not cell:
                plain += " " * width
                continue
            if cell.cell_len > width:
                cell = cell.copy()
                cell.truncate(width)
            blank = " " * (width - cell.cell_len)
            is_right = column in _RIGHT and spans.get(column, ())[:2] not in _LEFT_SPANS
            plain += blank if is_right else ""
            if cell.style or cell.spans:
                line.append(plain).append_text(cell)
                plain = ""
            else:
                plain += cell.plain
            plain += "" if is_right else blank
        return line.append(plain)


def _start(text: str, width: int, ellipsis: str) -> str:
    """The text's start in at most `width` columns."""
    if cell_len(text) <= width:
        return text
    for stop in range(min(len(text), width), 0, -1):
        if cell_len(candidate := text[:stop] + ellipsis) <= width:
            return candidate
    return ellipsis[: max(width, 0)]
