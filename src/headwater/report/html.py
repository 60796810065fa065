"""Renders a document as a fragment of HTML for notebooks: self-contained, escaped, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from headwater.findings import Severity
from headwater.report.decades_axis import DecadesAxis, decades_axis, range_text
from headwater.report.document import Document
from headwater.report.finding_groups import FindingGroup
from headwater.report.glyphs import UNICODE
from headwater.report.numbers import decades
from headwater.report.places import place
from headwater.report.printable import printable
from headwater.report.table_row import RowKind, TableRow

# Colours that can be read on white and on black; everything else takes the page's own.
_COLOR = {Severity.ERROR: "#d64545", Severity.WARNING: "#b7791f", Severity.INFO: "#3182ce"}
_HEALTHY = "#2f9e62"
_BAR = "#4a90d9"
_BAR_PIXELS = 140
_MOST_ALL_ROWS = 400  # a longer table is not worth its place in the notebook's file
# Notebooks stripe, centre and right-align tables of their own accord.
_CELL = "padding:1px 10px 1px 0;border:0;background:transparent;white-space:nowrap;vertical-align:top;text-align:"
_HEADINGS = {
    "name": ("module", "left"),
    "shape": ("shape", "left"),
    "rms": ("forward RMS", "right"),
    "norm": ("gradient norm", "right"),
    "decades": ("decades from output", "left"),
    "weight": ("mean abs dL/dW", "right"),
    "flags": ("flags", "left"),
}
_FOLD_SPAN = ("shape", "rms", "norm")  # empty in a fold
_FAINT = "opacity:.65"


def render_html(document: Document, *, show_all: bool = False) -> str:
    """The document as one `<div>` without scripts or outside resources; everything from the model is escaped.

    Args:
        document: what to show.
        show_all: every call instead of folded blocks, every finding in full.
    """
    html = "\n".join((*_lines(document, show_all=show_all), ""))
    return html.encode("ascii", "xmlcharrefreplace").decode()  # right whatever the page says its encoding is


def _lines(document: Document, *, show_all: bool) -> Iterator[str]:
    color = _COLOR[document.severity] if document.severity else _HEALTHY if document.is_healthy else "currentColor"
    yield '<div style="font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;line-height:1.5">'
    yield f"<div><b>Headwater: {_text(document.title)}</b></div>"
    yield f'<div style="{_FAINT}">{_text(" · ".join(document.facts))}</div>'
    yield f'<div style="border-left:4px solid {color};padding-left:8px;margin:8px 0"><b>{_text(document.answer)}</b>'
    yield from (f"<div>{_text(remark)}</div>" for remark in document.remarks)
    if document.counts:
        yield f"<div>{_text(' · '.join(document.counts))}</div>"
    yield "</div>"
    yield from _table(document.all_rows if show_all else document.rows)
    if document.num_hidden and not show_all:
        yield from _everything(document)
    yield from _over_time(document)
    for group in document.findings:
        yield from _finding(group if show_all else group.shortened())
    yield from _limits(document)
    yield "</div>"


def _everything(document: Document) -> Iterator[str]:
    hidden = f"{document.num_hidden:,} of {document.num_calls:,} calls are folded"
    if len(document.all_rows) > _MOST_ALL_ROWS:
        yield f'<div style="{_FAINT}">{hidden}: print(diagnosis.to_text(show_all=True)) shows them</div>'
        return
    yield f'<details><summary style="{_FAINT};cursor:pointer">{hidden}: show all</summary>'
    yield from _table(document.all_rows)
    yield "</details>"


def _table(rows: Sequence[TableRow]) -> Iterator[str]:
    if not rows:
        return
    axis = decades_axis(rows)
    cells = [_fold_cells(row, axis) if row.kind is RowKind.FOLD else _cells(row, axis) for row in rows]
    columns = [column for column in _HEADINGS if any(row.get(column) for row in cells)]
    heads = "".join(
        f'<th style="{_CELL}{align};font-weight:bold">{escape(title)}</th>'
        for title, align in map(_HEADINGS.__getitem__, columns)
    )
    yield '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:8px 0;font-size:12px">'
    yield f'<thead><tr style="background:transparent;border-bottom:1px solid">{heads}</tr></thead><tbody>'
    for row, texts in zip(rows, cells, strict=True):
        yield f'<tr style="background:transparent">{"".join(_tds(row, texts, columns))}</tr>'
    yield "</tbody></table></div>"


def _tds(row: TableRow, cells: Mapping[str, str], columns: Sequence[str]) -> Iterator[str]:
    covered = _FOLD_SPAN if row.kind is RowKind.FOLD else ()
    for column in columns:
        if column in covered:
            continue
        span = sum(other in covered for other in columns) + 1 if covered and column == "name" else 1
        indent = f";padding-left:{16 * min(row.level, 12)}px" if column == "name" else ""
        attribute = f' colspan="{span}"' if span > 1 else ""
        yield f'<td{attribute} style="{_CELL}{_HEADINGS[column][1]}{indent}">{cells.get(column, "")}</td>'


def _cells(row: TableRow, axis: DecadesAxis) -> dict[str, str]:
    kind = f' <span style="{_FAINT}">{_text(row.type)}</span>' if row.type else ""
    gain = row.gain_decades
    return {
        "name": f"{_text(row.name)}{kind}",
        "shape": _text(row.shape),
        "rms": _text(row.activation_rms),
        "norm": _text(row.gradient_norm),
        "decades": "" if gain is None else _gain(decades(gain), (gain, 0.0), axis),
        "weight": _text(row.weight_gradient),
        "flags": _flags(row),
    }


def _fold_cells(row: TableRow, axis: DecadesAxis) -> dict[str, str]:
    details = "".join(f"<br>{_text(detail)}" for detail in row.details)
    gains = row.gain_range_decades
    return {
        "name": f'<i style="{_FAINT}">⋮ {_text(row.name)}</i>{details}',
        "decades": "" if gains is None else _gain(range_text(gains), gains, axis, opacity=0.45),
        "flags": _flags(row),
    }


def _flags(row: TableRow) -> str:
    style = f"color:{_COLOR[row.severity]};font-weight:bold" if row.severity else ""
    codes = f'<span style="{style}">{_text(" ".join(row.codes))}</span>' if row.codes else ""
    remarks = f'<span style="{_FAINT}">{_text(" ".join(row.remarks))}</span>' if row.remarks else ""
    return " ".join(part for part in (codes, remarks) if part)


def _gain(text: str, ends: tuple[float, float], axis: DecadesAxis, opacity: float = 1.0) -> str:
    """The number, and a bar between two gains on an axis with a line at 0."""
    start, stop = sorted(_BAR_PIXELS * axis.position(end) for end in ends)
    fill = "" if ends[0] == -math.inf else f"background:{_BAR};opacity:{opacity:g};"
    zero = _BAR_PIXELS * axis.position(0.0)
    part = '<span style="position:absolute;top:{top};height:{height};left:{left:.0f}px;width:{width:.0f}px;{style}"></span>'
    return (
        f'<span style="display:inline-block;min-width:8.5em;text-align:right">{escape(text)}</span> '
        f'<span style="display:inline-block;position:relative;width:{_BAR_PIXELS + 2}px;height:1em;vertical-align:middle">'
        + part.format(top=".2em", height=".6em", left=start, width=stop - start, style=fill)
        + part.format(top="0", height="1em", left=zero, width=1, style="background:currentColor;opacity:.6;")
        + "</span>"
    )


def _over_time(document: Document) -> Iterator[str]:
    if document.over_time:
        yield f'<div style="{_FAINT}">over time (from the first step to the last)</div>'
    for row in document.over_time:
        yield f'<div><span style="color:{_BAR}">{row.drawn(UNICODE.levels)}</span> {_text(row.text)}</div>'


def _finding(group: FindingGroup) -> Iterator[str]:
    color = _COLOR[group.severity]
    yield f'<div style="border-left:4px solid {color};padding-left:8px;margin:8px 0">'
    yield f'<div><b style="color:{color}">{_text(group.code)} {_text(group.name)}</b> ({group.severity.name.lower()})</div>'
    yield from (f"<div>{_text(message)}</div>" for message in group.messages)
    yield f'<div><span style="{_FAINT}">where</span> {_text(", ".join(group.modules))}</div>'
    lines = [(place(line), line.code) for line in group.lines]
    yield from (
        f'<div><span style="{_FAINT}">line</span> {_text(where)} <code>{_text(code)}</code></div>'
        for where, code in lines
    )
    yield from (f'<div><span style="{_FAINT}">why</span> {_text(cause)}</div>' for cause in group.causes)
    remedies = "".join(f"<li>{_text(remedy)}</li>" for remedy in group.remedies)
    yield f'<div style="{_FAINT}">what to do</div><ol style="margin:0 0 0 2em;padding:0">{remedies}</ol></div>'


def _limits(document: Document) -> Iterator[str]:
    lines = [f"no finding: {', '.join(document.passed)}"] if document.passed else []
    lines += [f"not judged: {', '.join(rules)}: {reason}" for reason, rules in document.not_applicable]
    lines += [f"not observed: {note}" for note in document.notes]
    yield from (f'<div style="{_FAINT}">{_text(line)}</div>' for line in lines)


def _text(text: str) -> str:
    return escape(printable(text))
