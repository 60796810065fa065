"""A benchmark's result: a titled table, printed with rich and kept in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One benchmark's table.

    Args:
        name: the benchmark's, as given on the command line.
        title: what was measured, in one sentence.
        columns: headings.
        rows: cells, as text.
        remarks: sentences below the table: targets, and what is missing.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = field(default_factory=tuple)


def to_markdown(result: Result) -> str:
    """The table in Markdown, between markers by which `replace_in` finds it again."""
    lines = [
        _begin(result.name),
        f"## {result.title}",
        "",
        f"| {' | '.join(result.columns)} |",
        f"|{'---|' * len(result.columns)}",
        *(f"| {' | '.join(row)} |" for row in result.rows),
        "",
        *result.remarks,
        _end(result.name),
    ]
    return "\n".join(lines)


def replace_in(document: str, result: Result) -> str:
    """The document with the result's section replaced, or added at the end."""
    begin, end = _begin(result.name), _end(result.name)
    if begin in document and end in document:
        before, _, rest = document.partition(begin)
        _, _, after = rest.partition(end)
        return f"{before}{to_markdown(result)}{after}"
    return f"{document.rstrip()}\n\n{to_markdown(result)}\n"


def _begin(name: str) -> str:
    return f"<!-- {name} begins: written by `python -m benchmarks --write` -->"


def _end(name: str) -> str:
    return f"<!-- {name} ends -->"
