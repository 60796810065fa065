"""One variant of a comparison as it was measured, and the budget that all were trained with."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.lab.learning_curve import LearningCurve
from headwater.lab.variant_measurements import VariantMeasurements
from headwater.lab.variant_profile import ExpectedGain


@dataclass(frozen=True, slots=True)
class ComparedVariant:
    """One variant as it was measured.

    Args:
        name: of the user's.
        description: the specification's line, or the factory's name.
        num_parameters: that are trained.
        expected: what theory expects of it; None where no stack of like layers is recognised.
        measured: one row per seed.
        curve: how it learned; None without training.
    """

    name: str
    description: str
    num_parameters: int
    expected: ExpectedGain | None
    measured: VariantMeasurements
    curve: LearningCurve | None = None


@dataclass(frozen=True, slots=True)
class TrainingBudget:
    """What every variant's training was.

    Args:
        num_steps: of the optimiser.
        batch_size: samples of a step; None for all.
        optimizer: the optimiser with its settings.
    """

    num_steps: int
    batch_size: int | None
    optimizer: str
