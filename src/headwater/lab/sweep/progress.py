"""A progress bar with rate and time left, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from headwater.lab.sweep.columns import Row

if TYPE_CHECKING:
    from rich.progress import Progress, Task
    from rich.text import Text

OnRow = Callable[[Row], None]


@contextmanager
def progress_bar(num_cells: int, num_finished: int, stream: TextIO | None = None) -> Iterator[OnRow]:
    """A function to call with each row that comes; it draws a bar where the stream is a terminal, and nothing elsewhere.

    Args:
        num_cells: of the grid.
        num_finished: by earlier runs.
        stream: where to; standard error if left out.

    >>> with progress_bar(2, 0) as on_row:
    ...     on_row({"status": "done"})
    """
    target = sys.stderr if stream is None else stream
    if not target.isatty() or num_finished >= num_cells:
        yield lambda _: None
        return
    with _bar(target) as progress:
        task = progress.add_task("cells", total=num_cells, completed=num_finished, failed=0)
        num_failed = 0

        def on_row(row: Row) -> None:
            nonlocal num_failed
            num_failed += row["status"] == "failed"
            progress.update(task, advance=1, failed=num_failed)

        yield on_row


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(rate_text(task.speed))

    failed = TextColumn("[red]{task.fields[failed]} failed[/]")
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells"),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    return Progress(*columns, failed, console=Console(file=stream, force_terminal=True), transient=True)


def rate_text(cells_per_second: float | None) -> str:
    """A rate that is easy to read.

    >>> rate_text(12.34), rate_text(0.2), rate_text(None)
    ('12 per second', '12 per minute', '')
    """
    if cells_per_second is None:
        return ""
    if cells_per_second < 1.0:
        return f"{60 * cells_per_second:.3g} per minute"
    return f"{cells_per_second:.2g} per second" if cells_per_second < 10 else f"{cells_per_second:,.0f} per second"
