"""The characters that a text report is drawn with, for streams that know Unicode and for those that do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headwater.findings import Severity
from headwater.report.printable import printable, printable_ascii


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """Characters of one column each, and how text is made fit to print beside them.

    Args:
        branch, last_branch, trunk, gap: of the tree, two columns each.
        fold: before what stands for several rows.
        full, left_half, right_half: of bars; the halves at the ends of bars that grow to the left and to the right.
        band: between the smallest and the largest of several gains.
        axis: where the gain is that of the output.
        nothing: at the left end, for an exactly zero gradient.
        levels: of a small chart, the lowest first.
        rule: under the table's head.
        ellipsis: for what is left out.
        healthy, marks: before the answer and findings.
        separator: between facts.
        text: makes text of the user's printable.
    """

    branch: str
    last_branch: str
    trunk: str
    gap: str
    fold: str
    full: str
    left_half: str
    right_half: str
    band: str
    axis: str
    nothing: str
    levels: str
    rule: str
    ellipsis: str
    healthy: str
    marks: dict[Severity, str]
    separator: str
    text: Callable[[str], str]


UNICODE = Glyphs(
    branch="├ ",
    last_branch="└ ",
    trunk="│ ",
    gap="  ",
    fold="┆ ",
    full="█",
    left_half="▐",
    right_half="▌",
    band="▒",
    axis="│",
    nothing="×",
    levels="▁▂▃▄▅▆▇█",
    rule="─",
    ellipsis="…",
    healthy="✓",
    marks={Severity.ERROR: "✗", Severity.WARNING: "!", Severity.INFO: "i"},
    separator=" · ",
    text=printable,
)

ASCII = Glyphs(
    branch="+ ",
    last_branch="+ ",
    trunk="| ",
    gap="  ",
    fold=": ",
    full="#",
    left_half="-",
    right_half="-",
    band="=",
    axis="|",
    nothing="x",
    levels=".:-=+*#@",
    rule="-",
    ellipsis=".",
    healthy="+",
    marks={Severity.ERROR: "x", Severity.WARNING: "!", Severity.INFO: "i"},
    separator=", ",
    text=printable_ascii,
)


def can_show(encoding: str | None) -> bool:
    """Whether a stream of this encoding shows the Unicode glyphs; yes where the encoding is not known.

    >>> can_show("utf-8"), can_show("cp437"), can_show("ascii"), can_show("latin-1"), can_show(None)
    (True, False, False, False, True)
    """
    if encoding is None:
        return True
    parts = (value for name in Glyphs.__slots__ if isinstance(value := getattr(UNICODE, name), str))
    try:
        "".join((*parts, *UNICODE.marks.values())).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
