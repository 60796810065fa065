"""How alike gradients are that were compared pair by pair, with the error of the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.recording import Recording


@dataclass(frozen=True, slots=True)
class Likeness:
    """Mean correlation (cosine) over pairs of gradients.

    Args:
        module: whose output the gradients are with respect to.
        depth: of its call.
        num_pairs: that were compared.
        mean: of their correlations.
        error: standard error of the mean, over pairs.
        points: mean correlation of the points themselves; nan where they are the same.
    """

    module: str
    depth: int
    num_pairs: int
    mean: float
    error: float
    points: float

    @property
    def at_most(self) -> float:
        """Two standard errors above the mean.

        >>> Likeness("0", 1, 16, 0.1, 0.02, 1.0).at_most
        0.14
        """
        return self.mean + 2.0 * self.error


def likeness(recording: Recording, name: str) -> Likeness | None:
    """Of a series that holds count, sum and sum of squares, and perhaps the points' sum; None without two pairs.

    >>> from headwater.recording import RecordingBuilder
    >>> likeness(RecordingBuilder().build(), "gradient_correlation_at_8th") is None
    True
    """
    series = recording.series(name)
    if not series or series[0].values[0] < 2:
        return None
    count, total, squares, *points = (float(value) for value in series[0].values)
    mean = total / count
    variance = max(squares / count - mean**2, 0.0) * count / (count - 1.0)
    return Likeness(
        series[0].module,
        series[0].depth,
        int(count),
        mean,
        math.sqrt(variance / count),
        points[0] / count if points else math.nan,
    )
