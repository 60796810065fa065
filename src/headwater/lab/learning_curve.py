"""How the networks of one variant learned, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headwater.lab.paired_statistics import Median, median_interval

NOT_DIVERGED = -1


@dataclass(frozen=True, slots=True, eq=False)
class LearningCurve:
    """S seeds, C checkpoints. Where a network has diverged, loss and accuracy are nan from then on.

    Args:
        steps: of the optimiser before each checkpoint, shape (C,).
        loss: on the data, in evaluation mode, (S, C).
        accuracy: on the data, from 0 to 1, (S, C); nan where targets are no classes.
        held_out_loss: likewise on data that was not trained on, (S, C); nan without such.
        held_out_accuracy: (S, C).
        diverged_at: the step at which a loss was NaN or infinite first, (S,); -1 for never.
    """

    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    held_out_loss: np.ndarray
    held_out_accuracy: np.ndarray
    diverged_at: np.ndarray

    @property
    def num_diverged(self) -> int:
        """How many seeds diverged."""
        return int((self.diverged_at != NOT_DIVERGED).sum())

    @property
    def measure(self) -> str:
        """What tells best how well it learned: the accuracy if there is one, of held-out data if there are such."""
        return next((name for name in ("held_out_accuracy", "accuracy", "held_out_loss") if self.has(name)), "loss")

    def has(self, measure: str) -> bool:
        """Whether this was measured at all.

        >>> one = LearningCurve(np.array([0]), *[np.array([[np.nan]])] * 4, diverged_at=np.array([-1]))
        >>> one.has("accuracy")
        False
        """
        return bool(np.isfinite(getattr(self, measure)).any())

    def medians(self, measure: str) -> tuple[Median, ...]:
        """The median over seeds at each checkpoint, with its interval.

        A network that has diverged is not left out: its loss counts as infinite, its accuracy as 0.

        Args:
            measure: "loss", "accuracy", "held_out_loss" or "held_out_accuracy".

        >>> curve = LearningCurve(np.array([0, 1]), *[np.array([[0.5, np.nan]])] * 4, diverged_at=np.array([1]))
        >>> curve.medians("loss")[1].value, curve.medians("accuracy")[1].value
        (inf, 0.0)
        """
        return tuple(median_interval(column) for column in self.ranked(measure).T)

    def ranked(self, measure: str) -> np.ndarray:
        """The values, shape (S, C), with the worst there is where a network has diverged.

        >>> one = LearningCurve(np.array([4]), *[np.array([[np.nan]])] * 4, diverged_at=np.array([2]))
        >>> one.ranked("loss").tolist()
        [[inf]]
        """
        worst = 0.0 if measure.endswith("accuracy") else np.inf
        return np.where(self._has_diverged, worst, getattr(self, measure))

    @property
    def _has_diverged(self) -> np.ndarray:
        first = np.where(self.diverged_at == NOT_DIVERGED, np.iinfo(np.int64).max, self.diverged_at)
        return self.steps[None, :] >= first[:, None]


def joined_curves(curves: list[LearningCurve]) -> LearningCurve:
    """The curves of several seeds as one.

    >>> one = LearningCurve(np.array([0]), *[np.array([[0.5]])] * 4, diverged_at=np.array([-1]))
    >>> joined_curves([one, one]).loss.shape
    (2, 1)
    """
    return LearningCurve(
        curves[0].steps,
        *(
            np.concatenate([getattr(curve, name) for curve in curves])
            for name in ("loss", "accuracy", "held_out_loss", "held_out_accuracy", "diverged_at")
        ),
    )
