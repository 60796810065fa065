"""HW201: rectified units that are off for every sample of the batch and will not come back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording, SignalKind, UnitExtremes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadUnits:
    """HW201: units whose pre-activation is negative for the whole batch, by more than chance and depth explain.

    Being off is not being dead: in a deep healthy ReLU network the samples of a batch become alike (correlations tend to
    one, Poole et al. 2016, arXiv 1606.05340), so that about half of the units are off for all of them, and as many on for all.
    A unit counts as dead where its largest pre-activation lies far below zero on the scale of the units that live; and a
    layer is sick where far more units are off than on.

    Args:
        min_samples: entries per unit below which nothing can be said: a healthy unit is off for n independent
            samples with probability 2**-n.
        margin: standard deviations below zero from which a Gaussian pre-activation does not come back (4: 3e-5).
        imbalance_sigmas: deviations of a fair coin by which off units outnumber units that are always on.
        imbalance_fraction: share of the layer's units that this surplus must reach.
    """

    code: ClassVar[str] = "HW201"
    name: ClassVar[str] = "dead-units"

    min_samples: int = 32
    margin: float = 4.0
    imbalance_sigmas: float = 3.0
    imbalance_fraction: float = 0.25

    def check(self, recording: Recording) -> Verdict:
        """One finding for each rectifier call with dead units."""
        if not recording.units:
            return NotApplicable("no rectifier module (nn.ReLU, nn.ReLU6) was called")
        measured = [units for units in recording.units if units.num_samples >= self.min_samples]
        if not measured:
            most = max(units.num_samples for units in recording.units)
            return NotApplicable(
                f"at most {most} entries per unit: pass a batch of at least {self.min_samples} samples to tell a dead unit "
                "from one that is off by chance"
            )
        return [finding for units in measured for finding in self._findings(recording, units)]

    def _findings(self, recording: Recording, units: UnitExtremes) -> list[Finding]:
        num_units = len(units.maximum)
        off = units.maximum <= 0.0
        num_off, num_always_on = int(off.sum()), int((units.minimum > 0.0).sum())
        if not num_off:
            return []
        num_dead = num_off if num_off == num_units else self._num_far_below(recording, units)
        surplus = num_off - num_always_on
        imbalanced = (
            surplus > self.imbalance_sigmas * math.sqrt(num_off + num_always_on)
            and surplus >= self.imbalance_fraction * num_units
        )
        if not num_dead and not imbalanced:
            return []
        return [self._finding(recording, units, num_dead or num_off, num_off, num_always_on)]

    def _num_far_below(self, recording: Recording, units: UnitExtremes) -> int:
        output = recording.signal(SignalKind.ACTIVATION, units.depth)
        if output is None or not output.rms > 0.0:
            return 0
        # The output of a rectified Gaussian of deviation s has RMS s / sqrt(2).
        return int(np.count_nonzero(units.maximum < -self.margin * math.sqrt(2.0) * output.rms))

    def _finding(
        self, recording: Recording, units: UnitExtremes, num_dead: int, num_off: int, num_always_on: int
    ) -> Finding:
        call = recording.calls[units.depth]
        num_units = len(units.maximum)
        everything = num_off == num_units
        highest = float(units.maximum.max() if everything else units.maximum[units.maximum <= 0.0].max())
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR if everything else Severity.WARNING,
            modules=(call.module,),
            cause=(
                "The pre-activations are negative for every sample: a large negative bias, a step that was too large, or inputs "
                "of one sign meeting negative weights."
            ),
            message=(
                f"{num_dead} of {num_units} units of '{call.module}' ({call.module_type}) are off for all {units.num_samples} "
                f"samples{', so no gradient passes' if everything else ''}."
            ),
            evidence={
                "num_dead": num_dead,
                "num_units": num_units,
                "num_off": num_off,
                "num_always_on": num_always_on,
                "num_samples": units.num_samples,
                "largest_preactivation_of_off_units": highest,
            },
            remedies=(
                "Use a rectifier with a slope on both sides: nn.LeakyReLU, nn.GELU, nn.SiLU.",
                "Start biases at zero and weights at He scale; lower the learning rate or warm it up.",
                "Normalise before the rectifier, so that pre-activations are centred.",
            ),
        )
