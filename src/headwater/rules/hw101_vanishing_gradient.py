"""HW101: the gradient loses its size on the way from the output to the first layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis import lines_of_modules, time_steps, waterfall
from headwater.analysis.functional_layers import weight_layers
from headwater.analysis.gain import backward_gain, cotangent, decades
from headwater.analysis.gradient_measures import GradientMeasures, gradient_measures
from headwater.analysis.gradient_path import (
    Layer,
    headwaters,
    leaf_calls,
    median_decades,
    pooling_decades,
    returns_a_number,
)
from headwater.analysis.scaled_starts import attention_decades, averaging_decades, small_head_decades
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SourceLine
from headwater.rules.measures_in_words import measures_evidence, noise_in_words, rate_in_words, reach_in_words
from headwater.rules.over_time import vanishing_finding
from headwater.rules.way_of_the_gradient import Change, cause_in_words, change_on_the_way, lines_of_part, remedies_for
from headwater.rules.wording import counted, distinct

_AT_ONE_PLACE = " It is a change of scale at one place, not a loss in every layer, and the output is as sensitive to the first layers as to the last."


@dataclass(frozen=True, slots=True, kw_only=True)
class VanishingGradient:
    """HW101: too little of the gradient at the output arrives at the first trainable layers.

    Judged is the activation gradient relative to the gradient at the output, never the weight gradient: forward and
    backward decay can cancel in dL/dW and leave a flat profile in a network that does not learn. Neither the scale of the
    loss nor the width of a layer enters. What average pooling divides by is added back, and so is what an output layer that starts
    small costs beyond the default; a layer inside a block counts as reached where the block's input is: a branch that is
    scaled down (LayerScale) is a design.

    Where all of the loss is that of one place that is no weight, activation or norm, and the relative effect of the first layers
    on the output (their elasticity) is whole, numbers are only rescaled there (muP's output multiplier): that is information.

    Over the time steps of a recurrent module the weights are shared, and the gradients of all steps are added up: early steps
    that get less are heard less, until rounding leaves nothing of them in the sum. The bounds are those of that sum.

    Args:
        info_decades: lost on the way; worth knowing: a factor of 100.
        warning_decades: lost on the way; AutoTrainer's bound on first over last layer, 1e-3 (Zhang et al. 2021); half an
            ulp of bfloat16, 2**-9, is 2.7 decades.
        error_decades: lost on the way; half an ulp of float32, 2**-25: a step that moves the last layer by its own size
            is rounded away at the first.
        time_info_decades: lost between the time steps that the loss reads and the weakest tenth; a thousandth of the sum.
        time_error_decades: the same; half an ulp of float32, 2**-25: a sum in float32 is what it would be without them. For
            gated cells a warning: what the late steps teach their gates opens them for the early ones.
        gated_error_decades: the same; half an ulp of float64, 2**-53: no format keeps them.
        call_decades: lost by one call for it to be named; a sigmoid at its steepest loses 0.6.
        call_share: of all decades lost, for the same.
    """

    code: ClassVar[str] = "HW101"
    name: ClassVar[str] = "vanishing-gradient"

    info_decades: float = 2.0
    warning_decades: float = 3.0
    error_decades: float = 7.5
    time_info_decades: float = 3.0
    time_error_decades: float = 7.5
    gated_error_decades: float = 16.0
    call_decades: float = 1.0
    call_share: float = 0.2

    def check(self, recording: Recording) -> Verdict:
        """Where the earliest tenth of the layers, or the weakest tenth of the time steps, gets too little of the gradient."""
        layers = weight_layers(recording)
        reference = cotangent(recording)
        if reference is None or not layers:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if reference.nonfinite_count:
            return []  # HW104's
        over_time = time_steps(recording)
        bounds = (self.time_info_decades, self.time_error_decades, self.gated_error_decades)
        found = vanishing_finding(self.code, self.name, over_time, bounds)
        explained = max((steps.lost_decades for steps in over_time), default=0.0) if found else 0.0
        return [*found, *self._over_layers(recording, layers, explained)]

    def _over_layers(self, recording: Recording, layers: Sequence[Layer], lost_over_time: float) -> list[Finding]:
        """The finding about depth, where there is more to say than what time steps have lost already."""
        reach = median_decades(layer.reach_decades for layer in headwaters(layers))
        if not math.isfinite(reach):  # exactly zero is HW103's
            return []
        lost = pooling_decades(recording) - reach
        if self._severity(lost - lost_over_time) is None:
            return []
        way = waterfall(recording)
        averaging = averaging_decades(way) + attention_decades(recording, way)
        head = small_head_decades(way)
        severity = self._severity(lost + averaging + head - lost_over_time)
        if severity is None:
            return []
        measures = gradient_measures(recording, layers)
        lost += averaging + head
        if measures.is_a_mere_scale(-lost, self.info_decades):
            severity = Severity.INFO
        given_back = {"pooling_decades": -(reach + lost) + head, "small_head_decades": -head}
        return [self._finding(recording, layers, lost, given_back, severity, measures)]

    def _severity(self, lost_decades: float) -> Severity | None:
        if lost_decades >= self.error_decades:
            return Severity.ERROR
        if lost_decades >= self.warning_decades:
            return Severity.WARNING
        return Severity.INFO if lost_decades >= self.info_decades else None

    def _finding(
        self,
        recording: Recording,
        layers: Sequence[Layer],
        lost: float,
        given_back: Mapping[str, float],
        severity: Severity,
        measures: GradientMeasures,
    ) -> Finding:
        first = headwaters(layers)[0]
        at_one_place = measures.is_a_mere_scale(-lost, self.info_decades)
        loss = change_on_the_way(recording, first.call)
        steep = self._steep_calls(recording, lost, after=first.call.depth)
        evidence: dict[str, float | int | str] = {
            "lost_decades": lost,
            **given_back,
            **measures_evidence(measures),
            "num_layers": len(layers),
            "first_layer_gradient_norm": first.gradient_norm,
            **loss.evidence(),
        }
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([first.call.module, *(call.module for call in steep)]),
            cause=cause_in_words(loss),
            message=(
                f"The gradient loses {lost:.1f} decades on its way from the output to the first of "
                f"{counted(len(layers), 'layer')}{'' if at_one_place else rate_in_words(measures)}."
                f"{_AT_ONE_PLACE if at_one_place else ''}{reach_in_words(measures, recording)}{noise_in_words(measures)}"
            ),
            evidence=evidence,
            remedies=remedies_for(loss, steep),
            lines=_lines(loss, steep, recording),
        )

    def _steep_calls(self, recording: Recording, lost: float, *, after: int) -> list[Call]:
        """The calls that lose most, where a few stand out, in execution order."""
        losses = [
            (decades(backward_gain(recording, call.depth)), call.depth)
            for call in leaf_calls(recording)
            if call.depth > after and not returns_a_number(recording, call)
        ]
        bound = -max(self.call_decades, self.call_share * lost)
        steep = sorted(pair for pair in losses if -math.inf < pair[0] <= bound)[:3]
        return [recording.calls[depth] for depth in sorted(depth for _, depth in steep)]


def _lines(loss: Change, steep: list[Call], recording: Recording) -> tuple[SourceLine, ...]:
    """Of the single calls that stand out, or else of what loses most."""
    if steep or loss.way is None or not loss.losing:
        return lines_of_modules(recording, [call.module for call in steep])
    return lines_of_part(loss, loss.losing[0])
