"""HW303: the optimiser's next step is about as large as the weights themselves, or makes numbers of them that are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.layer_steps import LayerStep, layer_steps, loss_slope
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording, SignalKind
from headwater.rules.wording import NO_OPTIMIZER, distinct

_RESCALE = "Scale the loss down: a mean instead of a sum, targets of unit variance, no factor that an optimiser like SGD does not undo."


@dataclass(frozen=True, slots=True, kw_only=True)
class OversizedUpdate:
    """HW303: RMS(update) / RMS(weight) of a matrix near one or above it.

    A weight that starts at zero or tiny on purpose (LoRA's B, Fixup, the last layer of a policy) is measured by the size that
    it would have with variance 1 / fan_in (LeCun et al. 1998, Efficient BackProp, section 4.6). Biases and gains are not judged.

    Args:
        healthy_ratio: what a step should be near: a thousandth (Hinton 2010, A Practical Guide to Training Restricted Boltzmann
            Machines, section 7; Karpathy's notes for CS231n). Only used to name a learning rate.
        warning_ratio: of RMS values; two such steps in one direction replace the weight.
        error_ratio: one step does.
        tiny_gain: RMS(weight) times sqrt(fan_in) below which it counts as tiny; PyTorch's default for nn.Linear has 0.58,
            GPT-2's smallest projections 0.06 to 0.2.
        steep_loss_slope: change of the loss per unit that every output moves by, from which on the scale of the loss is the
            cause: three decades, the bound of HW102, above the slope of a mean loss, which is near one.
    """

    code: ClassVar[str] = "HW303"
    name: ClassVar[str] = "oversized-update"

    healthy_ratio: float = 1e-3
    warning_ratio: float = 0.5
    error_ratio: float = 1.0
    tiny_gain: float = 0.1
    steep_loss_slope: float = 1e3

    def check(self, recording: Recording) -> Verdict:
        """At most three findings: for steps that are not finite, for those beyond the weight, and for those near it."""
        steps = layer_steps(recording)
        if not steps:
            if recording.context.optimizer:
                return NotApplicable(
                    "no step of a matrix was observed: pass the loss too, and an optimiser without a closure"
                )
            return NotApplicable(NO_OPTIMIZER)
        sound = _finite_before(recording)
        broken = [step for step in steps if step.update.stats.nonfinite_count and step.parameter.name in sound]
        ratios = [(self._ratio(step), step) for step in steps if not step.update.stats.nonfinite_count]
        beyond = [pair for pair in ratios if pair[0] >= self.error_ratio]
        near = [pair for pair in ratios if self.warning_ratio <= pair[0] < self.error_ratio]
        found = [self._not_finite(recording, broken, len(steps))] if broken else []
        for pairs, severity in ((beyond, Severity.ERROR), (near, Severity.WARNING)):
            if pairs:
                found.append(self._oversized(recording, pairs, severity, len(steps)))
        return found

    def _ratio(self, step: LayerStep) -> float:
        """RMS(update) / RMS(weight), or / 1 / sqrt(fan_in) for a tiny weight; nan where the weight was not measured."""
        if step.weight is None:
            return math.nan
        unit = 1.0 / math.sqrt(max(math.prod(step.parameter.shape[1:]), 1))
        size = step.weight.stats.rms
        return step.update.stats.rms / (size if size >= self.tiny_gain * unit else unit)

    def _oversized(
        self, recording: Recording, pairs: Sequence[tuple[float, LayerStep]], severity: Severity, num_layers: int
    ) -> Finding:
        ratio, step = max(pairs, key=lambda pair: pair[0])
        optimizer = recording.context.optimizer or "the optimiser"
        update_rms, weight_rms = step.update.stats.rms, step.weight.stats.rms if step.weight is not None else math.nan
        better_rate = step.rate * self.healthy_ratio / ratio
        slope = loss_slope(recording)
        is_steep = self.steep_loss_slope <= slope < math.inf
        lower = f"Lower the learning rate: near {better_rate:.1g} the step is a thousandth of the weight; warm it up from there."
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([step.parameter.module, *(other.parameter.module for _, other in pairs)]),
            cause=(
                f"At a learning rate of {step.rate:.3g} the step has an RMS of {update_rms:.3g}, the weights have {weight_rms:.3g}: "
                f"{_reason(slope, is_steep)}."
            ),
            message=(
                f"The next step of {optimizer} is {ratio:.3g} times as large as the weights of {_named(step)}."
                f"{_in_all(len(pairs), num_layers)}"
            ),
            evidence={
                "update_to_weight": ratio,
                "update_rms": update_rms,
                "weight_rms": weight_rms,
                "learning_rate": step.rate,
                "better_learning_rate": better_rate,
                "loss_slope": slope,
                "num_oversized_layers": len(pairs),
                "num_layers": num_layers,
            },
            remedies=(
                *([_RESCALE] if is_steep else []),
                lower if math.isfinite(better_rate) else "Lower the learning rate, and warm it up.",
                "Clip the gradient: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).",
                "Normalise before the layer, or initialise it at the usual scale, if the gradient or the weights are the cause.",
            ),
        )

    def _not_finite(self, recording: Recording, steps: Sequence[LayerStep], num_layers: int) -> Finding:
        step = steps[0]
        optimizer = recording.context.optimizer or "the optimiser"
        stats = step.update.stats
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR,
            modules=distinct([other.parameter.module for other in steps]),
            cause=(
                f"The weights and their gradient are finite, so it is {optimizer}'s own arithmetic in {step.parameter.dtype}: a division "
                "by an eps that is rounded to zero, or a step past the largest number."
            ),
            message=(
                f"The next step of {optimizer} makes {stats.nonfinite_count} of {stats.numel} weights of {_named(step)} NaN or "
                f"infinite.{_in_all(len(steps), num_layers)}"
            ),
            evidence={
                "num_not_finite": stats.nonfinite_count,
                "num_weights": stats.numel,
                "num_nan": stats.nan_count,
                "epsilon": step.epsilon,
                "num_oversized_layers": len(steps),
                "num_layers": num_layers,
            },
            remedies=(
                "Keep the weights in float32 and compute in 16 bits: torch.autocast.",
                "Raise eps: in float16 it must be at least 6e-8, the smallest number that there is.",
            ),
        )


def _reason(slope: float, is_steep: bool) -> str:
    if is_steep:
        return (
            f"the loss is steep, it changes by {slope:.3g} where every output moves by one and a mean loss by about one, and "
            "the step of an optimiser like SGD grows with it"
        )
    return "the rate is too high for weights of this size, or the gradient has exploded (HW102)"


def _finite_before(recording: Recording) -> set[str]:
    """Parameters whose values and whose gradients are all finite."""
    kinds = (SignalKind.WEIGHT, SignalKind.WEIGHT_GRADIENT)
    signals = [signal for kind in kinds for signal in recording.select(kind)]
    return {s.parameter for s in signals} - {s.parameter for s in signals if s.stats.nonfinite_count}


def _named(step: LayerStep) -> str:
    return f"'{step.parameter.module}' ({step.module_type})" if step.parameter.module else "the model"


def _in_all(num_found: int, num_layers: int) -> str:
    return f" So it is, more or less, in {num_found} of {num_layers} layers." if num_found > 1 else ""
