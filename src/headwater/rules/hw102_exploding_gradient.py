"""HW102: the gradient grows out of bounds on the way back, or at one module."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gain import backward_gain, cotangent
from headwater.analysis.gradient_path import (
    Layer,
    headwaters_gain_decades,
    leaf_calls,
    rate_decades_per_layer,
    trainable_layers,
)
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind

_GRADIENTS = (SignalKind.ACTIVATION_GRADIENT, SignalKind.INPUT_GRADIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplodingGradient:
    """HW102: the gradient arrives at the first layers far larger than it left the output, or one call multiplies it.

    Args:
        warning_decades: growth from the output to the first layers; the mirror of HW101's bound.
        error_decades: float16's largest value, 65504, is 4.8 decades above one.
        call_gain: backward gain of a single call that no initialisation explains: dividing by a norm or a
            deviation near zero does it.
    """

    code: ClassVar[str] = "HW102"
    name: ClassVar[str] = "exploding-gradient"

    warning_decades: float = 3.0
    error_decades: float = 4.8
    call_gain: float = 1e4

    def check(self, recording: Recording) -> Verdict:
        """A finding for the network as a whole, or else one for each call that multiplies the gradient."""
        if cotangent(recording) is None:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if not _is_finite(recording):
            return []
        at_calls = [
            (gain, call)
            for call in leaf_calls(recording)
            if self.call_gain <= (gain := backward_gain(recording, call.depth)) < math.inf
        ]
        if at_calls:
            gain, call = max(at_calls, key=lambda pair: pair[0])
            return [self._at_call(call, gain, len(at_calls))]
        layers = trainable_layers(recording)
        grown = headwaters_gain_decades(layers)
        if len(layers) < 2 or not self.warning_decades <= grown < math.inf:
            return []
        return [self._over_layers(layers, grown)]

    def _at_call(self, call: Call, gain: float, num_calls: int) -> Finding:
        name = f"'{call.module}' ({call.module_type})" if call.module else f"the model ({call.module_type})"
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR,
            modules=(call.module,),
            cause=(
                "A single call multiplies the gradient: it divides by something near zero (a norm, a standard deviation, "
                "a difference), or its weights are huge."
            ),
            message=f"The gradient grows by a factor of {gain:.3g} at {name}.",
            evidence={"backward_gain": gain, "num_calls_above_bound": num_calls},
            remedies=(
                "Keep the divisor away from zero: add an eps of the size of the signal, not of rounding.",
                "Check that the module's input is not constant or zero: an all-zero layer before it, or a padded row.",
                "Clip the gradient norm (torch.nn.utils.clip_grad_norm_) until the cause is found.",
            ),
        )

    def _over_layers(self, layers: list[Layer], grown: float) -> Finding:
        rate = rate_decades_per_layer(layers)
        first = layers[0].call
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR if grown >= self.error_decades else Severity.WARNING,
            modules=(first.module,),
            cause="Every layer multiplies the gradient by more than one: weights too large for the activation and depth.",
            message=(
                f"The gradient grows by {grown:.1f} decades on its way from the output to the first of {len(layers)} layers: "
                f"a factor of {10**rate:.3g} per layer."
            ),
            evidence={
                "grown_decades": grown,
                "factor_per_layer": 10**rate,
                "num_layers": len(layers),
                "first_layer_gradient_norm": layers[0].gradient_norm,
            },
            remedies=(
                "Initialise smaller: He for ReLU, Xavier for tanh, and scale residual branches by 1/sqrt(number of blocks).",
                "Normalise the branch's input (pre-norm), or start branches at zero (ReZero, Fixup, zero-gamma).",
                "Clip the gradient norm (torch.nn.utils.clip_grad_norm_).",
            ),
        )


def _is_finite(recording: Recording) -> bool:
    """Whether the loss and every gradient are: what is not finite is HW104's, and its finite rest says little."""
    loss = recording.context.loss
    return (loss is None or math.isfinite(loss)) and not any(
        signal.stats.nonfinite_count for kind in _GRADIENTS for signal in recording.select(kind)
    )
