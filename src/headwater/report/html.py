"""Renders a document as a fragment of HTML for notebooks: self-contained, escaped, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from headwater.findings import Finding, Severity
from headwater.report.document import Document, TableRow
from headwater.report.numbers import decades
from headwater.report.printable import listed, printable

_COLOR = {Severity.ERROR: "#c0392b", Severity.WARNING: "#b7791f", Severity.INFO: "#2b6cb0"}
_CELL = "padding:1px 8px;text-align:{align};white-space:nowrap;border:0;background:transparent"
_HEADINGS = (
    ("module", "left"),
    ("shape", "left"),
    ("forward RMS", "right"),
    ("gradient norm", "right"),
    ("decades from output", "left"),
    ("mean |dW|", "right"),
    ("flags", "left"),
)
_LEAST_SPAN_DECADES = 3.0


def render_html(document: Document, *, show_all: bool = False) -> str:
    """The document as one `<div>` without scripts or outside resources; everything from the model is escaped."""
    return "\n".join(_lines(document, show_all=show_all))


def _lines(document: Document, *, show_all: bool) -> Iterator[str]:
    rows = document.all_rows if show_all else document.rows
    yield '<div style="font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;line-height:1.5">'
    yield f"<div><b>{_text(document.title)}</b></div>"
    yield f'<div style="opacity:.7">{_text(document.facts)}</div>'
    yield f"<div><b>{_text(document.answer)}</b></div>"
    yield '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:8px 0">'
    heads = "".join(f'<th style="{_CELL.format(align=align)}">{escape(name)}</th>' for name, align in _HEADINGS)
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    low, high = _range(rows)
    yield from (_row(row, low, high) for row in rows)
    yield "</tbody></table></div>"
    for finding in document.findings:
        yield from _finding(finding)
    for code, reason in document.not_applicable:
        yield f'<div style="opacity:.7">{_text(code)} not applicable: {_text(reason)}</div>'
    for note in document.notes:
        yield f'<div style="opacity:.7">Not observed: {_text(note)}</div>'
    yield "</div>"


def _row(row: TableRow, low: float, high: float) -> str:
    indent = f"padding-left:{8 + 14 * min(row.level, 12)}px"
    kind = f' <span style="opacity:.6">{_text(row.type)}</span>' if row.type else ""
    color = f"color:{_COLOR[row.severity]};font-weight:bold" if row.severity else "opacity:.7"
    cells = (
        f'<td style="{_CELL.format(align="left")};{indent}">{_text(row.name)}{kind}</td>',
        _cell(row.shape, "left"),
        _cell(row.activation_rms, "right"),
        _cell(row.gradient_norm, "right"),
        f'<td style="{_CELL.format(align="left")}">{_bar(row, low, high)}</td>',
        _cell(row.weight_gradient, "right"),
        f'<td style="{_CELL.format(align="left")};{color}">{_text(" ".join(row.flags))}</td>',
    )
    faded = ' style="opacity:.6"' if row.is_fold else ""
    return f"<tr{faded}>{''.join(cells)}</tr>"


def _cell(text: str, align: str) -> str:
    return f'<td style="{_CELL.format(align=align)}">{_text(text)}</td>'


def _bar(row: TableRow, low: float, high: float) -> str:
    if row.gain_range_decades is not None:
        return escape(" to ".join(decades(end) for end in row.gain_range_decades))
    gain_decades = row.gain_decades
    if gain_decades is None:
        return ""
    share = (gain_decades - low) / (high - low) if math.isfinite(gain_decades) else 0.0
    return (
        f'<span style="display:inline-block;width:3.5em;text-align:right">{escape(decades(gain_decades))}</span> '
        f'<span style="display:inline-block;height:.7em;width:{80 * max(share, 0.0):.0f}px;background:#3b82c4"></span>'
    )


def _range(rows: Sequence[TableRow]) -> tuple[float, float]:
    known = [row.gain_decades for row in rows if row.gain_decades is not None and math.isfinite(row.gain_decades)]
    high = max([0.0, *known])
    return min([high - _LEAST_SPAN_DECADES, *known]), high


def _finding(finding: Finding) -> Iterator[str]:
    color = _COLOR[finding.severity]
    yield f'<div style="border-left:3px solid {color};padding-left:8px;margin:8px 0">'
    yield (
        f'<div><b style="color:{color}">{_text(finding.code)} {_text(finding.name)}</b> '
        f"{_text(finding.severity.name)}: {_text(finding.message)}</div>"
    )
    yield f"<div>Where: {_text(listed(finding.modules))}</div>"
    yield f"<div>Why: {_text(finding.cause)}</div>"
    remedies = "".join(f"<li>{_text(remedy)}</li>" for remedy in finding.remedies)
    yield f'<ol style="margin:0 0 0 1.5em;padding:0">{remedies}</ol></div>'


def _text(text: str) -> str:
    return escape(printable(text))
