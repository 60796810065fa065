"""HW105: the gradient is another one as soon as the input moves a little."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.functional_layers import parameter_readers, weight_layers
from headwater.analysis.gradient_path import leaf_calls
from headwater.analysis.likeness import Likeness, likeness
from headwater.analysis.parametrizations import layer_of
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording
from headwater.rules.wording import counted, named
from headwater.theory.shattering import gradient_correlation, gradient_correlation_with_shortcuts

_AT_1024TH, _AT_8TH = "gradient_correlation_at_1024th", "gradient_correlation_at_8th"
_OF_SAMPLES, _REFUSED = "gradient_correlation_of_samples", "num_without_gradient_pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShatteredGradient:
    """HW105: gradients of neighbouring inputs are as unrelated as white noise (Balduzzi et al. 2017, arXiv 1702.08591).

    Compared are gradients at the first layer's output under equal cotangents: the loss has no part in it. Gradients of different
    samples are unrelated in many a network that trains, so what is judged is how far a sample can be moved toward another one
    before its gradient is another one, too.

    Args:
        correlated: correlation at which a field has lost its memory, 1/e by the usual definition of a correlation length; two
            standard errors above the measured mean must be below it.
        deep_theory: at an eighth of the way the plain wide He-ReLU network falls below 1/e after 26 layers, and such networks train.
            There the finding waits until the theory of a network of this depth is below a tenth: 77 layers.
        distance: of the move that is judged at any depth, 2**-10 of the way to another sample. Perturbations grow on the way
            forward by the factor that gradients grow by on the way back (Schoenholz et al. 2017, arXiv 1611.01232): what a thousandth
            decides is a network that multiplies gradients by a thousand, HW102's three decades.
    """

    code: ClassVar[str] = "HW105"
    name: ClassVar[str] = "shattered-gradient"

    correlated: float = math.exp(-1.0)
    deep_theory: float = 0.1
    distance: float = 2.0**-10

    def check(self, recording: Recording) -> Verdict:
        """At most one finding, at the first layer."""
        near, far = likeness(recording, _AT_1024TH), likeness(recording, _AT_8TH)
        if near is None and far is None:
            return NotApplicable(_why_not(recording))
        if near is not None and near.at_most <= self.correlated:
            return [self._finding(recording, near, self.distance, "a thousandth")]
        if far is not None and far.at_most <= self.correlated:
            expected = gradient_correlation(far.points, _num_layers_after(recording, far))
            if expected <= self.deep_theory:
                return [self._finding(recording, far, 1.0 / 8.0, "an eighth")]
        return []

    def _finding(self, recording: Recording, found: Likeness, distance: float, in_words: str) -> Finding:
        num_layers = _num_layers_after(recording, found)
        plain = gradient_correlation(found.points, num_layers)
        scale = max(num_layers, 1) ** -0.5
        with_shortcuts = gradient_correlation_with_shortcuts(found.points, num_layers, scale)
        others = likeness(recording, _OF_SAMPLES)
        evidence: dict[str, float | int | str] = {
            "correlation": found.mean,
            "correlation_error": found.error,
            "correlation_at_most": max(found.at_most, 0.0),
            "correlation_of_inputs": found.points,
            "share_of_the_way": distance,
            "num_pairs": found.num_pairs,
            "num_layers": num_layers,
            "expected_correlation_plain": plain,
            "expected_correlation_with_shortcuts": with_shortcuts,
        }
        if others is not None:
            evidence["correlation_of_different_samples"] = others.mean
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.WARNING,
            modules=(found.module,),
            cause=(
                "Each layer turns a small difference of its inputs into a larger one, and nothing carries the input past the "
                "layers: large weights, or normalisation between many plain layers."
                if distance == self.distance
                else "So many layers in a row, without shortcuts, switch different units on for inputs that are nearly equal."
            ),
            message=(
                f"Moved {in_words} of the way to another sample, a sample's gradient at {_named(recording, found)} is another one: "
                f"the correlation is at most {max(found.at_most, 0.0):.2f}, over {counted(found.num_pairs, 'pair')}. Through "
                f"{counted(num_layers, 'layer')}, a wide He-ReLU network without shortcuts would have {plain:.2f}, one with "
                f"shortcuts scaled by 1/√layers {with_shortcuts:.2f}."
            ),
            evidence=evidence,
            remedies=(
                "Add shortcuts, with branches scaled down: x + block(x) / sqrt(number of blocks), normalised at the start of the branch.",
                "Use fewer layers.",
                "Start linear: branches that begin at zero (ReZero, SkipInit), or CReLU with mirrored weights ('looks linear' initialisation).",
                "Initialise for the activation, with smaller weights.",
            ),
        )


def _why_not(recording: Recording) -> str:
    refusals = recording.series(_REFUSED)
    if refusals:
        return (
            f"gradients of different samples could not be compared: {refusals[0].item}; pass a batch of several samples"
        )
    if recording.series(_AT_1024TH):
        return "no gradient of two samples reaches the first layer"
    return "gradients of different samples were not compared: pass several samples, and samples=16, to diagnose()"


def _named(recording: Recording, found: Likeness) -> str:
    return named(recording.calls[found.depth]) if 0 <= found.depth < len(recording.calls) else f"'{found.module}'"


def _num_layers_after(recording: Recording, found: Likeness) -> int:
    """Layers with a weight matrix that run after the one whose output was moved: calls, and products of functional code."""
    owners = {layer_of(parameter.module) for parameter in recording.parameters if len(parameter.shape) > 1}
    is_functional = found.depth < 0 or found.module in {series.module for series in parameter_readers(recording)}
    several = sum(layer.operation is not None for layer in weight_layers(recording))
    calls = sum(call.module in owners and call.depth > found.depth for call in leaf_calls(recording))
    return calls + max(several - is_functional, 0)
