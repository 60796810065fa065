"""How many cells go to a worker at once: so many that the way there costs little, and so few that little is in flight."""

from __future__ import annotations

from dataclasses import dataclass

_MOST = 1000  # cells of a task, however cheap
_MEMORY = 0.8  # weight of earlier tasks in the mean
_GROWTH = 4  # a few cheap cells do not say that all are
_SECONDS_AT_MOST = 20.0  # of a cell that nothing is known of
_TASKS_LEFT_PER_WORKER = 2  # so that no worker idles at the end while another one has the rest


@dataclass
class Pace:
    """The size of the next task, from what the last ones took.

    Args:
        task_seconds: how long a task shall take.
        num_workers: that share the cells.

    >>> pace = Pace(task_seconds=1.0, num_workers=2)
    >>> pace.size(num_left=1000)
    1
    >>> pace.note(num_cells=1, seconds=0.1)
    >>> pace.size(num_left=1000), pace.size(num_left=1000)
    (4, 10)
    """

    task_seconds: float
    num_workers: int
    _seconds_per_cell: float | None = None
    _last: int = 0

    def note(self, num_cells: int, seconds: float) -> None:
        """What a task took, all its cells together."""
        of_task = max(seconds / num_cells, 1e-7)
        before = self._seconds_per_cell
        self._seconds_per_cell = of_task if before is None else _MEMORY * before + (1.0 - _MEMORY) * of_task

    def size(self, num_left: int) -> int:
        """How many cells the next task gets.

        Args:
            num_left: that are not yet in a task.
        """
        fair = num_left // (_TASKS_LEFT_PER_WORKER * self.num_workers)
        if self._seconds_per_cell is None:
            return max(1, min(round(self.task_seconds / _SECONDS_AT_MOST), fair))
        fitting = round(self.task_seconds / self._seconds_per_cell)
        self._last = max(1, min(fitting, fair, _MOST, _GROWTH * max(self._last, 1)))
        return self._last
