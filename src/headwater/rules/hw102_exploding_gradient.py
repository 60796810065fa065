"""HW102: the gradient grows out of bounds on the way back, or at one module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis import time_steps
from headwater.analysis.divisions import division_gain_decades
from headwater.analysis.functional_layers import position_of, weight_layers
from headwater.analysis.gain import backward_gain, cotangent, decades, norm_ratio
from headwater.analysis.gradient_measures import (
    GradientMeasures,
    forward_growth_decades,
    gradient_measures,
    rate_interval,
)
from headwater.analysis.gradient_path import (
    Layer,
    headwaters,
    leaf_calls,
    median_decades,
    returns_a_number,
)
from headwater.analysis.operation_path import log_ratio, operation_flow
from headwater.analysis.parametrizations import is_leaf
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Operation, Recording, SignalKind
from headwater.rules.measures_in_words import measures_evidence, rate_in_words
from headwater.rules.over_time import exploding_finding
from headwater.rules.way_of_the_gradient import Change, change_on_the_way, growth_in_words, lines_of_part
from headwater.rules.wording import counted, distinct, listed, named

_GRADIENTS = (SignalKind.ACTIVATION_GRADIENT, SignalKind.INPUT_GRADIENT)

_DIVIDES_BY = "divides by something near zero (a norm, a standard deviation, a difference)"
_DIVIDES = f"{_DIVIDES_BY}, or its weights are huge"
_MOST_LINES = 3
_REMEDIES_AT_ONE_CALL = (
    "Keep the divisor away from zero: add an eps of the size of the signal, not of rounding.",
    "Check that the module's input is not constant or zero: an all-zero layer before it, or a padded row.",
    "Clip the gradient norm (torch.nn.utils.clip_grad_norm_) until the cause is found.",
)
_AT_ONE_PLACE = " It is a change of scale at one place, not a growth in every layer."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplodingGradient:
    """HW102: the gradient arrives at the first layers far larger than it left the output, or one call multiplies it.

    Args:
        warning_decades: growth from the output to the first layers, or from the time steps that the loss reads to the
            strongest tenth; the mirror of HW101's bound.
        error_decades: the same; float16's largest value, 65504, is 4.8 decades above one.
        call_gain: backward gain of a single call that no initialisation explains (dividing by a norm or a deviation
            near zero does it). It counts where the gradient behind it has grown by `warning_decades` in all, and is an
            error where that reaches a layer with weights, not only a learned token or position that starts at zero.
        scale_decades: growth that, without the one place where numbers are rescaled, counts as some; HW101's for information.
        each_way_decades: growth of the forward signal over the hidden layers, and of the gradient on its way back, from which on the two
            count together, where the gradient grows with every layer beyond chance: shortcuts without a norm, whose variance grows as
            2**L forward and again backward (Zhang et al. 2019, arXiv 1901.09321).
    """

    code: ClassVar[str] = "HW102"
    name: ClassVar[str] = "exploding-gradient"

    warning_decades: float = 3.0
    error_decades: float = 4.8
    call_gain: float = 1e4
    scale_decades: float = 2.0
    each_way_decades: float = 1.0

    def check(self, recording: Recording) -> Verdict:
        """A finding for the calls that multiply the gradient, or else for the network as a whole."""
        if cotangent(recording) is None:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if not _is_finite(recording):
            return []
        over_time = time_steps(recording)
        in_time = exploding_finding(self.code, self.name, over_time, (self.warning_decades, self.error_decades))
        explained = max((steps.grown_decades for steps in over_time), default=0.0) if in_time else 0.0
        layers = weight_layers(recording)
        growing = {steps.module for steps in over_time if steps.grown_decades >= self.warning_decades}
        at_calls = self._multiplying_calls(recording, growing)
        reached = [layer for layer in layers if layer.gain_decades >= self.warning_decades]
        if at_calls and any(layer.call.depth < call.depth for _, call in at_calls for layer in reached[:1]):
            return [*in_time, self._at_calls(at_calls, Severity.ERROR)]
        divisions = self._multiplying_operations(recording, reached, growing)
        if divisions:
            return [*in_time, self._at_operations(recording, divisions, reached)]
        findings = [*in_time, *([self._at_calls(at_calls, Severity.INFO)] if at_calls else [])]
        grown = median_decades(layer.gain_decades for layer in headwaters(layers))
        of_layers = grown - explained
        if self.warning_decades <= of_layers < math.inf or self._grows_both_ways(recording, layers, of_layers):
            findings.append(self._over_layers(recording, layers, grown, gradient_measures(recording, layers)))
        return findings

    def _grows_both_ways(self, recording: Recording, layers: Sequence[Layer], grown: float) -> bool:
        if not self.each_way_decades <= grown < math.inf:
            return False
        forward = forward_growth_decades(recording, layers)
        is_large = forward >= self.each_way_decades and grown + forward >= self.warning_decades
        return is_large and rate_interval(layers)[0] > 0.0

    def _multiplying_calls(self, recording: Recording, growing_over_time: set[str]) -> list[tuple[float, Call]]:
        """The calls with their gains in decades, the largest first; what many time steps do is no single call's doing."""
        reference = cotangent(recording)
        found: list[tuple[float, Call]] = []
        for call in leaf_calls(recording):
            if call.module in growing_over_time:
                continue
            gain = decades(backward_gain(recording, call.depth))
            if math.log10(self.call_gain) <= gain < math.inf and not returns_a_number(recording, call):
                sent = recording.signal(SignalKind.INPUT_GRADIENT, call.depth)
                if decades(norm_ratio(sent, reference)) >= self.warning_decades:
                    found.append((gain, call))
        return sorted(found, key=lambda pair: (-pair[0], pair[1].depth))

    def _multiplying_operations(
        self, recording: Recording, reached: Sequence[Layer], growing_over_time: set[str]
    ) -> list[tuple[float, Operation]]:
        """The same of functional code between calls: norms, and divisions by what is itself computed, which a constant is not.

        Those that send their gradient on to a layer with weights.
        """
        reference, flow = cotangent(recording), operation_flow(recording)
        if not reached or reference is None:
            return []
        made = {position_of(recording, layer)[0] for layer in reached} - {-1}
        found: list[tuple[float, Operation]] = []
        for index in sorted(flow.readers_of(made) - made):
            operation = flow.operations[index]
            call = recording.calls[operation.depth] if operation.depth >= 0 and not operation.is_cut else None
            if call is None or call.module in growing_over_time or is_leaf(recording, call):
                continue
            gain = division_gain_decades(flow, operation, near_zero_decades=math.log10(self.call_gain))
            if not math.isfinite(gain):
                continue
            grown = gain + log_ratio(operation.gradient_norm, reference.norm)
            if gain >= math.log10(self.call_gain) and grown >= self.warning_decades:
                found.append((gain, operation))
        return sorted(found, key=lambda pair: (-pair[0], pair[1].index))

    def _at_operations(
        self, recording: Recording, found: Sequence[tuple[float, Operation]], reached: Sequence[Layer]
    ) -> Finding:
        gain_decades, operation = found[0]
        gain = 10**gain_decades
        more = f" and at {counted(len(found) - 1, 'operation')} more" if len(found) > 1 else ""
        call = recording.calls[operation.depth]
        read = operation_flow(recording).read_by([operation.index])
        before = [layer for layer in reached if position_of(recording, layer)[0] in read][-1].call
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR,
            modules=distinct([*(recording.calls[one.depth].module for _, one in found), before.module]),
            cause=f"A single operation multiplies the gradient: it {_DIVIDES_BY}.",
            message=(
                f"The gradient grows by a factor of {gain:.3g} at {operation.name} in {named(call)}{more}, on its way to {named(before)}."
            ),
            evidence={"backward_gain": gain, "num_operations": len(found), "num_more_operations": len(found) - 1},
            remedies=_REMEDIES_AT_ONE_CALL,
            lines=tuple(dict.fromkeys(one.line for _, one in found if one.line is not None))[:_MOST_LINES],
        )

    def _at_calls(self, at_calls: Sequence[tuple[float, Call]], severity: Severity) -> Finding:
        gain_decades, call = at_calls[0]
        gain = 10**gain_decades
        more = f" and at {len(at_calls) - 1} more" if len(at_calls) > 1 else ""
        reach = ", but in no layer with weights" if severity is Severity.INFO else ""
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([call.module for _, call in at_calls]),
            cause=f"A single call multiplies the gradient: it {_DIVIDES}.",
            message=f"The gradient grows by a factor of {gain:.3g} at {named(call)}{more}{reach}.",
            evidence={"backward_gain": gain, "num_calls": len(at_calls), "num_more_calls": len(at_calls) - 1},
            remedies=_REMEDIES_AT_ONE_CALL,
        )

    def _over_layers(
        self, recording: Recording, layers: Sequence[Layer], grown: float, measures: GradientMeasures
    ) -> Finding:
        at_one_place = grown >= self.warning_decades and measures.is_a_mere_scale(grown, self.scale_decades)
        severity = Severity.ERROR if grown >= self.error_decades else Severity.WARNING
        first = headwaters(layers)[0]
        change = change_on_the_way(recording, first.call)
        adding = change.adding
        evidence: dict[str, float | int | str] = {
            "grown_decades": grown,
            **measures_evidence(measures),
            "forward_growth_decades": measures.forward_growth_decades,
            "num_layers": len(layers),
            "first_layer_gradient_norm": first.gradient_norm,
            **change.evidence(),
        }
        steepest = adding[0].decades / adding[0].calls if adding and change.way is not None else 0.0
        at_one_call = steepest >= max(math.log10(self.call_gain), 0.5 * grown)
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.INFO if at_one_place else severity,
            modules=(first.call.module,),
            cause=_cause(change, at_one_call=at_one_call),
            message=(
                f"The gradient grows by {grown:.1f} decades on its way from the output to the first of "
                f"{counted(len(layers), 'layer')}{'' if at_one_place else rate_in_words(measures)}."
                f"{_AT_ONE_PLACE if at_one_place else ''}{_forward_in_words(measures.forward_growth_decades, self.each_way_decades)}"
            ),
            evidence=evidence,
            remedies=_REMEDIES_AT_ONE_CALL
            if at_one_call
            else (
                "Initialise smaller: He for ReLU, Xavier for tanh, and scale residual branches by 1/sqrt(number of blocks).",
                "Normalise the branch's input (pre-norm), or start branches at zero (ReZero, Fixup, zero-gamma).",
                "Clip the gradient norm (torch.nn.utils.clip_grad_norm_).",
            ),
            lines=lines_of_part(change, adding[0]) if adding else (),
        )


def _forward_in_words(growth: float, bound: float) -> str:
    return f" Forward, the signal grows by {growth:.1f} decades over the hidden layers." if growth >= bound else ""


def _cause(change: Change, *, at_one_call: bool) -> str:
    growth, adding = growth_in_words(change), change.adding
    if at_one_call:
        return f"A single call multiplies the gradient: {growth}. It {_DIVIDES}."
    at = f", above all at {listed([part.name for part in adding if part.name][:2])} calls" if adding else ""
    return (
        f"Layer after layer multiplies the gradient{f': {growth}' if growth else at}. The weights are too large for "
        "the activation and the depth."
    )


def _is_finite(recording: Recording) -> bool:
    """Whether the loss and every gradient are: what is not finite is HW104's, and its finite rest says little."""
    loss = recording.context.loss
    return (loss is None or math.isfinite(loss)) and not any(
        signal.stats.nonfinite_count for kind in _GRADIENTS for signal in recording.select(kind)
    )
