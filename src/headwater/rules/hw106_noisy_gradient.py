"""HW106: what the first layers get is noise: the network's own, or that of a batch far too small."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gradient_noise import GradientNoise, gradient_noise, total_noise
from headwater.analysis.likeness import Likeness, likeness
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording
from headwater.rules.wording import counted, distinct, named

_REPEATED, _PAIRS = "gradient_correlation_repeated", "gradient_correlation_of_samples"
_NO_SLICES, _NO_PAIRS = "num_without_slice_gradients", "num_without_gradient_pairs"
_DROPOUTS = {"Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"}
_RATE = re.compile(r"p=([0-9.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyGradient:
    """HW106: the gradient is mostly noise.

    A warning where the network makes the noise itself: with the same sample and the same cotangent, two draws of its random
    numbers give unrelated gradients at its first layer, whatever the loss is and however far the training. Noise of the data is
    no fault: it grows until it is all there is as a network converges, so that it is only told.

    Args:
        repeated: correlation of the gradients of two draws, two standard errors above the mean. Steps to a given loss grow as
            1 + noise/(B signal) (McCandlish et al. 2018, arXiv 1812.06162, section 2), so at 0.01 the network's own noise asks for a
            hundred times as many samples as the data do. Dropout leaves about the product of 1 - p: two layers at 0.9.
        enough_signal: signal-to-noise of the batch's gradient, in energy, at which the batch averages that noise out: it is told, no
            more.
        drowned: signal-to-noise of the whole gradient of the batch below which it is told that the batch is ten times too small for a step
            to be half signal.
        least_samples: in the batch for that to be said.
    """

    code: ClassVar[str] = "HW106"
    name: ClassVar[str] = "noisy-gradient"

    repeated: float = 0.01
    enough_signal: float = 1.0
    drowned: float = 0.1
    least_samples: int = 8

    def check(self, recording: Recording) -> Verdict:
        """At most one finding: the network's own noise, or else that of the data."""
        noise = gradient_noise(recording)
        own = likeness(recording, _REPEATED)
        if not noise and own is None:
            return NotApplicable(_why_not(recording))
        if own is not None and own.at_most <= self.repeated:
            return [self._own_noise(recording, own, noise)]
        total = total_noise(noise)
        if total is not None and total.num_samples >= self.least_samples and total.signal_to_noise <= self.drowned:
            return [self._data_noise(total, noise)]
        return []

    def _own_noise(self, recording: Recording, own: Likeness, noise: tuple[GradientNoise, ...]) -> Finding:
        first = next((part for part in noise if part.module == own.module), None)
        is_averaged_out = first is not None and first.signal_to_noise >= self.enough_signal
        droppers = [(call, rate) for call, rate in _dropout_calls(recording) if call.depth > own.depth]
        evidence: dict[str, float | int | str] = {
            "correlation_of_two_draws": own.mean,
            "correlation_error": own.error,
            "correlation_at_most": max(own.at_most, 0.0),
            "num_samples": own.num_pairs,
        }
        if droppers:
            evidence["num_dropout_calls"] = len(droppers)
            evidence["largest_dropout_rate"] = max(rate for _, rate in droppers)
            evidence["expected_correlation"] = math.prod(1.0 - rate for _, rate in droppers)
        at = named(recording.calls[own.depth]) if 0 <= own.depth < len(recording.calls) else f"'{own.module}'"
        message = (
            f"The network's own random numbers decide the gradient at {at}: for one and the same sample, two draws give gradients "
            f"whose correlation is at most {max(own.at_most, 0.0):.2g}."
        )
        if first is not None and math.isfinite(first.signal_to_noise):
            evidence["first_layer_signal_to_noise"] = first.signal_to_noise
            evidence["last_layer_signal_to_noise"] = noise[-1].signal_to_noise
            message += (
                f" Signal over noise of this batch's weight gradient there is {first.signal_to_noise:.2g}."
                if first.signal_to_noise > 0.0
                else " In this batch's weight gradient there, no signal was found."
            )
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.INFO if is_averaged_out else Severity.WARNING,
            modules=distinct([own.module, *(call.module for call, _ in droppers)]),
            cause=_cause(droppers),
            message=message,
            evidence=evidence,
            remedies=(
                "Lower the dropout rates, or keep dropout for the last layers.",
                "Inject less noise: its scale belongs below that of the signal it is added to.",
                "Put the noise into branches and let a shortcut carry the input around them.",
                "Average it out: a larger batch, or gradient accumulation.",
            ),
        )

    def _data_noise(self, total: GradientNoise, noise: tuple[GradientNoise, ...]) -> Finding:
        worst = min(noise, key=lambda part: part.signal_to_noise if math.isfinite(part.signal_to_noise) else math.inf)
        ratio = total.signal_to_noise
        scale = total.noise_scale_samples
        evidence: dict[str, float | int | str] = {
            "num_samples": total.num_samples,
            "num_slices": total.num_slices,
            "signal_to_noise": ratio,
        }
        measured = "no signal was found"
        if ratio > 0.0:
            evidence["noise_scale_samples"] = scale
            measured = f"signal over noise is {ratio:.2g}, and they would be equal with {scale:.2g} samples"
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.INFO,
            modules=(worst.module,),
            cause=(
                "The samples' gradients point in different directions and cancel out: usual late in training; early on, labels "
                "that do not belong to the inputs, samples that all look the same to the network (HW204), or a batch that is too "
                "small."
            ),
            message=f"The gradient of this batch of {total.num_samples} samples is mostly noise: {measured}.",
            evidence=evidence,
            remedies=(
                "Early in training: check that the targets belong to the inputs, and use a larger batch or accumulate gradients.",
                "Late in training: lower the learning rate.",
            ),
        )


def _cause(droppers: list[tuple[Call, float]]) -> str:
    if not droppers:
        return "The network adds noise that drowns what it carries."
    kept = math.prod(1.0 - rate for _, rate in droppers)
    return (
        f"Dropout: {counted(len(droppers), 'call')} on the way, with rates up to {max(rate for _, rate in droppers):.2g}, let about "
        f"{kept:.2g} of the gradient's energy be the same from draw to draw."
    )


def _dropout_calls(recording: Recording) -> list[tuple[Call, float]]:
    rates = {
        module.name: float(rate.group(1))
        for module in recording.modules
        if module.type in _DROPOUTS and module.training and (rate := _RATE.search(module.config)) is not None
    }
    return [(call, rates[call.module]) for call in recording.calls if rates.get(call.module, 0.0) > 0.0]


def _why_not(recording: Recording) -> str:
    refusals = [*recording.series(_NO_SLICES), *recording.series(_NO_PAIRS)]
    if refusals:
        return (
            f"gradients of single samples could not be told apart: {refusals[0].item}; pass a loss that is a mean or a sum over "
            "several samples"
        )
    return "gradients of single samples were not looked at: pass several samples, a loss, and samples=16 to diagnose()"
