"""HW201: rectified units that are off for every sample of the batch and will not come back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from headwater.analysis import lines_of_modules
from headwater.analysis.causes import Cause, cause_of, hands_on
from headwater.analysis.dataflow import dataflow
from headwater.analysis.functional_activations import functional_activations
from headwater.analysis.gradient_path import trainable_layers
from headwater.analysis.operation_path import OperationFlow, operation_flow
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording, SignalKind, SourceLine
from headwater.rules.wording import distinct, named

_MOST_LINES = 3
_ROUNDING = 2.0**-17  # relative, of a sum in float32


@dataclass(frozen=True, slots=True, eq=False)
class _Rectifier:
    """One call of a rectifier, as a module or as a function in a module's forward."""

    name: str
    module: str
    num_samples: int
    minimum: np.ndarray
    maximum: np.ndarray
    output_rms: float
    is_normalised: bool  # over the batch, each unit by itself
    is_first: bool  # directly after a layer that reads the data
    lines: tuple[SourceLine, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One rectifier: how many of its units are dead, off for the whole batch, and on for all of it."""

    units: _Rectifier
    num_dead: int
    num_off: int
    num_always_on: int

    @property
    def num_units(self) -> int:
        return len(self.units.maximum)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadUnits:
    """HW201: units whose pre-activation is negative for the whole batch, by more than chance and depth explain.

    Being off is not being dead: in a deep healthy ReLU network the samples of a batch become alike (correlations tend to
    one, Poole et al. 2016, arXiv 1606.05340), so that about half of the units are off for all of them, and as many on for
    all. A unit counts as dead where its largest pre-activation lies far below zero on the scale of the units that live;
    and a layer is sick where far more units are off than on. Of a first layer, which reads the data, some unit should switch.

    Args:
        min_samples: entries per unit below which nothing can be said: a healthy unit is off for n independent
            samples with probability 2**-n.
        margin: standard deviations below zero from which a Gaussian pre-activation does not come back (4: 3e-5): on the scale of the
            units that live; behind a batch norm, where samples cannot be alike, on the unit's own.
        min_units: of a first layer, below which it may be chance that none of them switches.
        imbalance_sigmas: deviations of a fair coin by which off units outnumber units that are always on.
        imbalance_fraction: share of the layer's units that this surplus must reach.
    """

    code: ClassVar[str] = "HW201"
    name: ClassVar[str] = "dead-units"

    min_samples: int = 32
    margin: float = 4.0
    min_units: int = 16
    imbalance_sigmas: float = 3.0
    imbalance_fraction: float = 0.25

    def check(self, recording: Recording) -> Verdict:
        """At most two findings: for the calls with no unit alive, and for those with some units dead."""
        rectifiers = [*_modules(recording), *_functions(recording)]
        if not rectifiers:
            return NotApplicable(
                "no rectifier that Headwater knows (ReLU, ReLU6, clamp at zero) was called; diagnose() looks at functions too"
            )
        measured = [units for units in rectifiers if units.num_samples >= self.min_samples]
        if not measured:
            most = max(units.num_samples for units in rectifiers)
            return NotApplicable(
                f"at most {most} entries per unit: pass a batch of at least {self.min_samples} samples to tell a dead unit "
                "from one that is off by chance"
            )
        stiff = [units for units in measured if units.is_first and self._never_switches(units)]
        layers = [layer for layer in (self._layer(units) for units in measured if units not in stiff) if layer.num_dead]
        dead = [layer for layer in layers if layer.num_dead == layer.num_units]
        sick = [layer for layer in layers if layer.num_dead < layer.num_units]
        return [*(_finding(self, group) for group in (dead, sick) if group), *(_stiff(self, units) for units in stiff)]

    def _layer(self, units: _Rectifier) -> _Layer:
        num_units = len(units.maximum)
        num_off, num_always_on = int((units.maximum <= 0.0).sum()), int((units.minimum > 0.0).sum())
        surplus = num_off - num_always_on
        is_imbalanced = (
            surplus > self.imbalance_sigmas * math.sqrt(num_off + num_always_on)
            and surplus >= self.imbalance_fraction * num_units
        )
        if not 0 < num_off < num_units:
            num_dead = num_off
        else:
            num_shifted = self._num_shifted(units) if units.is_normalised else 0
            num_dead = max(
                self._num_far_below(units, num_units - num_off),
                num_shifted if num_shifted >= self.imbalance_fraction * num_units else 0,
            )
            num_dead = num_dead or (num_off if is_imbalanced else 0)
        return _Layer(units, num_dead, num_off, num_always_on)

    def _num_far_below(self, units: _Rectifier, num_live: int) -> int:
        if not units.output_rms > 0.0:
            return 0
        # The output of a rectified Gaussian of deviation s has RMS s / sqrt(2); units that are off add only zeros.
        deviation = math.sqrt(2.0 * len(units.maximum) / num_live) * units.output_rms
        return int(np.count_nonzero(units.maximum < -self.margin * deviation))

    def _num_shifted(self, units: _Rectifier) -> int:
        """Units whose largest pre-activation lies below zero by the margin in their own deviations.

        These are read off the range, which of n Gaussian entries is 2 z_n deviations wide (Blom 1958).
        """
        return int(np.count_nonzero(units.maximum < -self.margin * _deviations(units)))

    def _never_switches(self, units: _Rectifier) -> bool:
        """Whether some units are off and the others on for all samples, each by the margin in its own deviations."""
        num_off = int(np.count_nonzero(units.maximum <= 0.0))
        deviations = _deviations(units)
        is_far = np.maximum(-units.maximum, units.minimum) > self.margin * deviations
        is_mixed = self.imbalance_fraction <= num_off / max(len(is_far), 1) < 1.0
        differ = deviations > _ROUNDING * np.abs(units.maximum)  # of samples that are all the same nothing can be said
        return len(is_far) >= self.min_units and is_mixed and bool(is_far.all() and differ.all())


def _deviations(units: _Rectifier) -> np.ndarray:
    n = units.num_samples
    return (units.maximum - units.minimum) / (2.0 * NormalDist().inv_cdf((n - 0.375) / (n + 0.25)))


def _modules(recording: Recording) -> Iterator[_Rectifier]:
    flow = dataflow(recording)
    normalising, reading = _normalising(recording), _reading_data(recording)
    for units in recording.units:
        call, output = recording.calls[units.depth], recording.signal(SignalKind.ACTIVATION, units.depth)
        rms = math.nan if output is None else output.rms
        lines = lines_of_modules(recording, [call.module], limit=1)
        makers = {depth for tensor in flow.inputs[call.depth] for depth in flow.producers.get(tensor, ())}
        behind = (not makers.isdisjoint(normalising), not makers.isdisjoint(reading))
        extremes = (units.num_samples, units.minimum, units.maximum)
        yield _Rectifier(named(call), call.module, *extremes, rms, *behind, lines)


def _multiplies_data(flow: OperationFlow, index: int) -> bool:
    """Whether a product with weights that reads the data is all there is before an operation, but for a bias."""
    while len(flow.producers[index]) == 1:
        index = flow.producers[index][0].producer
        name = flow.operations[index].name
        if cause_of(name) is Cause.WEIGHTS:
            return not flow.producers[index]
        if not hands_on(name):
            return False
    return False


def _reading_data(recording: Recording) -> set[int]:
    """Depths of the layers whose input has no gradient."""
    return {layer.call.depth for layer in trainable_layers(recording) if not layer.call.input_requires_grad}


def _normalising(recording: Recording) -> set[int]:
    """Depths of the calls of batch norms that normalise by this batch."""
    training = {info.name for info in recording.modules if info.training}
    return {call.depth for call in recording.calls if "BatchNorm" in call.module_type and call.module in training}


def _functions(recording: Recording) -> Iterator[_Rectifier]:
    """But those that nothing which trains comes after: the margin of a loss, an output that cannot be negative."""
    flow, normalising, reading = operation_flow(recording), _normalising(recording), _reading_data(recording)
    for found in functional_activations(recording):
        if len(found.maximum) and not found.is_last:
            call, line = recording.calls[found.operation.depth], found.operation.line
            name = f"{found.operation.name} in {named(call)}"
            lines = () if line is None else (line,)
            makers = {flow.operations[edge.producer].depth for edge in flow.producers[found.operation.index]}
            is_first = not makers.isdisjoint(reading) or _multiplies_data(flow, found.operation.index)
            behind = (not makers.isdisjoint(normalising), is_first)
            units = (found.num_samples, found.minimum, found.maximum, found.output_rms)
            yield _Rectifier(name, call.module, *units, *behind, lines)


def _stiff(rule: DeadUnits, units: _Rectifier) -> Finding:
    """Of a first layer of which no unit switches."""
    num_off, num_units = int(np.count_nonzero(units.maximum <= 0.0)), len(units.maximum)
    offset = float(np.median(np.abs(units.maximum + units.minimum) / 2.0 / _deviations(units)))
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=Severity.WARNING,
        modules=(units.module,),
        cause=(
            "The data lie so far from zero that no unit tells them apart: the offset of a pre-activation is "
            f"{offset:.2g} times its deviation. The layer is a linear map of the data."
        ),
        message=(
            f"No unit of {units.name} switches: {num_off} of {num_units} are off for all {units.num_samples} samples, and "
            f"{num_units - num_off} on."
        ),
        evidence={
            "num_dead": num_off,
            "num_units": num_units,
            "num_always_on": num_units - num_off,
            "num_samples": units.num_samples,
            "offset_in_deviations": offset,
        },
        remedies=(
            "Subtract the mean of each feature and divide by its deviation (of the training data).",
            "Put nn.BatchNorm1d (BatchNorm2d) before the first layer.",
        ),
        lines=units.lines,
    )


def _finding(rule: DeadUnits, layers: Sequence[_Layer]) -> Finding:
    worst = max(layers, key=lambda layer: layer.num_dead / layer.num_units)
    is_dead = worst.num_dead == worst.num_units
    consequence = ", so no gradient passes" if is_dead else ""
    others = f" So it is, in part, at {len(layers) - 1} more calls." if len(layers) > 1 and not is_dead else ""
    others = f" So it is at {len(layers) - 1} more calls." if len(layers) > 1 and is_dead else others
    off = worst.units.maximum[worst.units.maximum <= 0.0]
    return Finding(
        code=rule.code,
        name=rule.name,
        severity=Severity.ERROR if is_dead else Severity.WARNING,
        modules=distinct([layer.units.module for layer in layers]),
        cause=(
            "The pre-activations are negative for every sample: a large negative bias, a step that was too large, or inputs "
            "of one sign meeting negative weights."
        ),
        message=(
            f"{worst.num_dead} of {worst.num_units} units of {worst.units.name} are off for all {worst.units.num_samples} "
            f"samples{consequence}.{others}"
        ),
        evidence={
            "num_dead": worst.num_dead,
            "num_units": worst.num_units,
            "num_off": worst.num_off,
            "num_always_on": worst.num_always_on,
            "num_samples": worst.units.num_samples,
            "largest_preactivation_of_off_units": float(off.max()),
            "num_calls": len(layers),
            "num_more_calls": len(layers) - 1,
        },
        remedies=(
            "Use a rectifier with a slope on both sides: nn.LeakyReLU, nn.GELU, nn.SiLU.",
            "Start biases at zero and weights at He scale; lower the learning rate or warm it up.",
            "Normalise before the rectifier, so that pre-activations are centred.",
        ),
        lines=tuple(dict.fromkeys(line for layer in layers for line in layer.units.lines))[:_MOST_LINES],
    )
