"""One line per recurrent module: what a step back in time does to the gradient, and how much each step gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from headwater.analysis import TimeSteps
from headwater.report.numbers import number

_MOST_COLUMNS = 24
_LEAST_SPAN_DECADES = 3.0  # a smaller range is drawn as nearly flat
_MOST_ROWS = 6
_NOTHING_DECADES = 0.05


@dataclass(frozen=True, slots=True)
class TimeRow:
    """The time steps of one recurrent module, ready to be rendered.

    Args:
        text: the module, how many steps, and what they do.
        heights: of a small chart, the first step at the left: 0 for the least gradient and 1 for the most, on an axis of decades;
            several steps share a column where there are many, and count as the strongest of them.
    """

    text: str
    heights: tuple[float, ...]

    def drawn(self, levels: str) -> str:
        """The chart in characters.

        Args:
            levels: a character per height, the lowest first.

        >>> TimeRow("", (0.0, 0.5, 1.0)).drawn("abc")
        'abc'
        """
        return "".join(levels[round(height * (len(levels) - 1))] for height in self.heights)


def time_rows(over_time: Sequence[TimeSteps]) -> tuple[TimeRow, ...]:
    """The rows of all recurrent modules and parameters; of several calls of one, the one that changes the gradient most.

    >>> time_rows(())
    ()
    """
    calls: dict[tuple[str, str], list[TimeSteps]] = {}
    for steps in over_time:
        calls.setdefault((steps.module, steps.parameter), []).append(steps)
    worst = [max(group, key=lambda steps: max(steps.lost_decades, steps.grown_decades)) for group in calls.values()]
    rows = [_row(steps, len(calls[steps.module, steps.parameter])) for steps in worst[:_MOST_ROWS]]
    if len(worst) > _MOST_ROWS:
        rows.append(TimeRow(f"{len(worst) - _MOST_ROWS} more recurrent modules", ()))
    return tuple(rows)


def _row(steps: TimeSteps, num_calls: int) -> TimeRow:
    rate = (
        f": a factor of {number(steps.factor_per_step)} per step back" if math.isfinite(steps.decades_per_step) else ""
    )
    parts = [f"{steps}{f' ({num_calls} calls of it)' if steps.is_fused and num_calls > 1 else ''}{rate}"]
    if steps.grown_decades > max(steps.lost_decades, _NOTHING_DECADES):
        parts.append(f"of the loss's gradient, the strongest steps get {steps.grown_decades:.1f} decades more")
    elif steps.lost_decades > _NOTHING_DECADES:
        parts.append(f"of the loss's gradient, the weakest steps get {steps.lost_decades:.1f} decades less")
    return TimeRow("; ".join(parts), _heights(steps.norms))


def _heights(norms: Sequence[float]) -> tuple[float, ...]:
    columns = min(len(norms), _MOST_COLUMNS)
    ends = [round(index * len(norms) / columns) for index in range(columns + 1)]
    strongest = [max(norms[begin:end]) for begin, end in pairwise(ends)]
    logs = [math.log10(value) if 0.0 < value < math.inf else -math.inf for value in strongest]
    finite = [value for value in logs if math.isfinite(value)]
    top = max(finite, default=0.0)
    span = max(top - min(finite, default=0.0), _LEAST_SPAN_DECADES)
    return tuple(max(0.0, 1.0 + (value - top) / span) for value in logs)
