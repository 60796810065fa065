"""Whether the loss itself is badly scaled: a cause of its own, which no verdict about the network depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headwater.analysis.layer_steps import loss_slope
from headwater.recording import Recording

# Between 2**-20 and 2**20 a slope leaves float32's exponents room for 30 decades of gain either way; a mean loss has one near
# one, and mixed precision multiplies it by 2**16.
_LEAST_SLOPE, _LARGEST_SLOPE = 2.0**-20, 2.0**20


@dataclass(frozen=True, slots=True)
class LossScale:
    """A loss whose slope at the output is far from that of a mean loss.

    Args:
        slope: by how much the loss changes, to first order, if every output moves by one where it helps.
    """

    slope: float

    @property
    def is_steep(self) -> bool:
        """Whether the slope is too large, and not too small."""
        return self.slope > 1.0

    def __str__(self) -> str:
        what = f"it changes by {self.slope:.2g} where every output moves by one, a mean loss by about one"
        if self.is_steep:
            return (
                f"The loss is steep: {what}. It is scaled up, summed, or its targets are far away. That is the loss and not the "
                "network: no verdict depends on it, but steps of SGD and gradients in 16 bits do."
            )
        return (
            f"The loss is flat: {what}. It is scaled down, or there is nothing left to learn. That is the loss and not the "
            "network: no verdict depends on it, but steps of SGD, Adam's eps and gradients in 16 bits do."
        )


def loss_scale(recording: Recording) -> LossScale | None:
    """The loss's scale where it is bad; None for a usual one, an exactly zero slope (HW103's), or random cotangents.

    >>> from headwater.recording import RecordingBuilder
    >>> loss_scale(RecordingBuilder().build()) is None
    True
    """
    slope = loss_slope(recording) if recording.context.cotangent == "loss" else math.nan
    is_bad = 0.0 < slope < _LEAST_SLOPE or _LARGEST_SLOPE < slope < math.inf
    return LossScale(slope) if is_bad else None
