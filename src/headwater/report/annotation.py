"""The user's source code with the decades in the margin."""

from __future__ import annotations

import linecache
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.analysis import LineCost
from headwater.report.glyphs import ASCII, UNICODE, Glyphs

_MARGIN = 9
_HOT_SHARE = 0.2  # of the largest change in the file, for a line to be marked
_WORTH_MARKING_DECADES = 0.3  # a factor of two


@dataclass(frozen=True, slots=True)
class _Margin:
    """What stands before one line: the decades of all its operations, and how often they ran."""

    decades: float
    calls: int


def annotated(
    source: str,
    costs: Sequence[LineCost],
    *,
    around: int | None = None,
    ascii_only: bool = False,
    color: bool = False,
) -> str:
    """Source code with the decades that each line costs or adds before it, the hottest lines marked.

    Args:
        source: text of one file.
        costs: of lines of this file.
        around: only from so many lines before the first of them to so many after the last; None for the whole file.
        ascii_only: for terminals and files that cannot show Unicode.
        color: marked lines in red, by ANSI codes; nothing is said by colour alone.

    >>> cost = LineCost("model.py", 2, "return x.sigmoid()", "Tensor.sigmoid", 6, -3.66, ("",))
    >>> source = "def f(x):" + chr(10) + "    return x.sigmoid()"
    >>> print(annotated(source, [cost], ascii_only=True))
              |   1 def f(x):
    -3.66 x6 >|   2     return x.sigmoid()
    """
    glyphs = ASCII if ascii_only else UNICODE
    margins = _margins(costs)
    largest = max((abs(margin.decades) for margin in margins.values()), default=0.0)
    bound = max(_WORTH_MARKING_DECADES, _HOT_SHARE * largest if math.isfinite(largest) else 0.0)
    width = max((len(_in_words(margin, glyphs)) for margin in margins.values()), default=_MARGIN)
    lines = source.splitlines()
    digits = max(3, len(str(len(lines))))
    rows = []
    shown = _shown_lines(margins, len(lines), around)
    for number in shown:
        code = lines[number - 1]
        margin = margins.get(number)
        words = "" if margin is None else _in_words(margin, glyphs)
        is_hot = margin is not None and abs(margin.decades) >= bound
        row = f"{words:>{width}} {'>' if is_hot else ' '}{glyphs.axis} {number:>{digits}} {code}".rstrip()
        rows.append(f"\x1b[31m{row}\x1b[0m" if is_hot and color else row)
    return "\n".join(rows)


def annotated_file(
    path: str | Path | None,
    costs: Sequence[LineCost],
    *,
    around: int | None = None,
    ascii_only: bool = False,
    color: bool = False,
) -> str:
    """The same of a file on disk, or of a notebook's cell while it is in memory.

    Args:
        path: of the file; None for the one whose lines change the gradient most.
        costs: of any lines; those of other files are left out.
        around: as in `annotated`.
        ascii_only: for terminals and files that cannot show Unicode.
        color: marked lines in red.

    Raises:
        ValueError: no operation was called from this file, or its code cannot be read.
    """
    name = _hottest_file(costs) if path is None else str(path)
    if not costs:
        raise ValueError("no lines were recorded: use diagnose(..., lines=True)")
    own = [cost for cost in costs if _is_same_file(cost.file, name)]
    if not own:
        files = ", ".join(sorted({cost.file for cost in costs}))
        raise ValueError(f"no operation of the model was called from '{name}'; there are lines of: {files}")
    source = "".join(linecache.getlines(own[0].file))
    if not source:
        raise ValueError(f"the code of '{name}' cannot be read: it is gone, or was never a file")
    return annotated(source, own, around=around, ascii_only=ascii_only, color=color)


def _hottest_file(costs: Sequence[LineCost]) -> str:
    changes: dict[str, float] = {"": 0.0}
    for cost in costs:
        changes[cost.file] = changes.get(cost.file, 0.0) + abs(cost.decades)
    return max(changes, key=lambda file: changes[file])


def _is_same_file(file: str, name: str) -> bool:
    return file == name or Path(file).resolve() == Path(name).resolve()


def _shown_lines(margins: dict[int, _Margin], num_lines: int, around: int | None) -> range:
    if around is None or not margins:
        return range(1, num_lines + 1)
    return range(max(1, min(margins) - around), min(num_lines, max(margins) + around) + 1)


def _margins(costs: Sequence[LineCost]) -> dict[int, _Margin]:
    margins: dict[int, _Margin] = {}
    for cost in costs:
        before = margins.get(cost.line, _Margin(0.0, 0))
        margins[cost.line] = _Margin(before.decades + cost.decades, max(before.calls, cost.calls))
    return margins


def _in_words(margin: _Margin, glyphs: Glyphs) -> str:
    return f"{margin.decades:+.2f} {glyphs.nothing}{margin.calls}" if margin.calls > 1 else f"{margin.decades:+.2f}"
