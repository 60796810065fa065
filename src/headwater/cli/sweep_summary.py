"""What the command line says of a sweep: how many cells, what theory got right, and how deep networks train."""

from __future__ import annotations

import io
import math
import sys
from typing import TYPE_CHECKING, Any

from headwater.cli.output import width

if TYPE_CHECKING:
    from headwater.lab.sweep import SweepResult

_MOST_ROWS = 40
_SHORT = {"initialisation": "init", "normalisation": "norm", "weight_variance": "σ_w²", "bias_variance": "σ_b²"}
_RATES = ("rate_decades_per_layer", "theory_rate_decades_per_layer")
_DEPTHS = ("six_measured_depth_scales", "six_theory_depth_scales")
_LEGEND = """deepest: greatest depth of the grid up to which {by}
rate: decades of the gradient's norm per layer towards the input, and what theory expects over these depths
6 ξ: layers that signal and gradient should reach, from the measured rate and from theory's fixed point"""


def summary(result: SweepResult) -> str:
    """The summary as text: one line on the cells, those that failed, and the greatest trainable depths.

    Args:
        result: of the sweep.
    """
    failures = result.failures()
    total = len(result)
    failed = f" and {len(failures):,} failed" if failures else ""
    lines = [f"{total - len(failures):,} cells done{failed}, in '{result.folder}'"]
    for specification, sentence in list(failures.items())[:5]:
        lines.append(f"failed: {specification}: {sentence}")
    if len(failures) > 5:
        lines.append(f"failed: {len(failures) - 5:,} more ('--retry-failed' runs them once more)")
    if "depth" in result.parameters and total > len(failures):
        lines += ["", _depths(result)]
    return "\n".join(lines)


def _depths(result: SweepResult) -> str:
    from rich.console import Console
    from rich.table import Table

    rows = result.trainable_depth().rows()
    names = [name for name in rows[0] if name in result.parameters]
    by = "networks have learned" if rows[0]["judged_by"] == "training" else "the gradient stays within 1.3 decades"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(_SHORT.get(name, name.replace("_", " ")), no_wrap=True)
    for title in ("deepest", "rate", "theory", "6 ξ", "theory"):
        table.add_column(title, justify="right")
    for row in rows[:_MOST_ROWS]:
        depth = f"{'≥ ' if row['is_at_least'] else ''}{row['trainable_depth']:.0f}"
        numbers = [_rate(row[name]) for name in _RATES] + [_layers(row[name]) for name in _DEPTHS]
        table.add_row(*(_text(row[name]) for name in names), depth, *numbers)
    stream = io.StringIO()
    console = Console(file=stream, width=width(sys.stdout), no_color=True, highlight=False, emoji=False)
    console.print(table)
    more = (
        f"\n({len(rows) - _MOST_ROWS:,} more rows: read_sweep(folder).trainable_depth() has them)"
        if len(rows) > _MOST_ROWS
        else ""
    )
    return f"{stream.getvalue().rstrip()}{more}\n{_LEGEND.format(by=by)}"


def _text(value: Any) -> str:
    """A parameter of a cell."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rate(decades: float) -> str:
    return "–" if math.isnan(decades) else f"{decades:+.4f}"


def _layers(number: float) -> str:
    if math.isnan(number):
        return "–"
    return "> 999" if number > 999.0 else f"{number:.3g}"
