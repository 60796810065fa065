"""Renders a comparison as a fragment of HTML for notebooks: self-contained, escaped, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from headwater.lab.comparison_document import ComparisonDocument, Section

# Notebooks stripe, centre and right-align tables of their own accord.
_CELL = "padding:1px 12px 1px 0;border:0;background:transparent;white-space:nowrap;vertical-align:top;text-align:"
_FAINT = "opacity:.65"


def render_html(document: ComparisonDocument) -> str:
    """The document as one `<div>` without scripts or outside resources; everything from the user is escaped.

    >>> from headwater.lab.comparison_document import ComparisonDocument
    >>> "<b>a &lt; b</b>" in render_html(ComparisonDocument("a < b", (), (), "", (), ()))
    True
    """
    html = "\n".join((*_lines(document), ""))
    return html.encode("ascii", "xmlcharrefreplace").decode()  # right whatever the page says its encoding is


def _lines(document: ComparisonDocument) -> Iterator[str]:
    yield '<div style="font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;line-height:1.5">'
    yield f"<div><b>{escape(document.title)}</b></div>"
    yield f'<div style="{_FAINT}">{escape(" · ".join(document.facts))}</div>'
    yield from (f"<div>{escape(variant)}</div>" for variant in document.variants)
    if document.verdict:
        style = "border-left:4px solid currentColor;padding-left:8px;margin:8px 0;max-width:80ch"
        yield f'<div style="{style}"><b>{escape(document.verdict)}</b></div>'
    for section in document.sections:
        yield from _section(section)
    yield from (f'<div style="{_FAINT}">theory: {escape(remark)}</div>' for remark in document.remarks)
    yield "</div>"


def _section(section: Section) -> Iterator[str]:
    yield f'<div style="margin-top:8px">{escape(section.heading)}</div>'
    yield '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:4px 0;font-size:12px">'
    heads = _cells("th", section.columns)
    yield f'<thead><tr style="background:transparent;border-bottom:1px solid">{heads}</tr></thead><tbody>'
    for row in section.rows:
        yield f'<tr style="background:transparent">{_cells("td", row)}</tr>'
    yield "</tbody></table></div>"
    if section.note:
        yield f'<div style="{_FAINT}">{escape(section.note)}</div>'


def _cells(tag: str, row: Sequence[str]) -> str:
    aligns = ("right" if column else "left" for column in range(len(row)))
    return "".join(
        f'<{tag} style="{_CELL}{align}">{escape(text)}</{tag}>' for text, align in zip(row, aligns, strict=True)
    )
