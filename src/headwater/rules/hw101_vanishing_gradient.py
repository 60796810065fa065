"""HW101: the gradient loses its size on the way from the output to the first layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from headwater.analysis.gain import cotangent
from headwater.analysis.gradient_path import (
    Layer,
    Share,
    decades_by_module_type,
    headwaters_gain_decades,
    is_chain,
    pooling_decades,
    rate_decades_per_layer,
    trainable_layers,
)
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording

_SQUASHING = ("Sigmoid", "Tanh", "Softsign", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softmax")
_LOCAL_LOSS_DECADES = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VanishingGradient:
    """HW101: too little of the gradient at the output arrives at the first trainable layers.

    Judged is the activation gradient relative to the gradient at the output, never the weight gradient: forward and
    backward decay can cancel in dL/dW and leave a flat profile in a network that does not learn. Neither the scale of the
    loss nor the width of a layer enters. What average pooling divides by is added back.

    Args:
        info_decades: worth knowing: a factor of 100.
        warning_decades: AutoTrainer's bound on first over last layer, 1e-3 (Zhang et al. 2021); half an ulp of bfloat16,
            2**-9, is 2.7 decades.
        error_decades: half an ulp of float32, 2**-25: a step that moves the last layer by its own size is rounded away
            at the first.
    """

    code: ClassVar[str] = "HW101"
    name: ClassVar[str] = "vanishing-gradient"

    info_decades: float = 2.0
    warning_decades: float = 3.0
    error_decades: float = 7.5

    def check(self, recording: Recording) -> Verdict:
        """A finding where the median gain to the earliest tenth of the layers is below a threshold."""
        layers = trainable_layers(recording)
        if cotangent(recording) is None or not layers:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        gain = headwaters_gain_decades(layers)
        if len(layers) < 2 or not math.isfinite(gain):  # exactly zero is HW103's, not finite HW104's
            return []
        lost = -(gain - pooling_decades(recording))
        severity = self._severity(lost)
        return [] if severity is None else [self._finding(recording, layers, lost, severity)]

    def _severity(self, lost_decades: float) -> Severity | None:
        if lost_decades >= self.error_decades:
            return Severity.ERROR
        if lost_decades >= self.warning_decades:
            return Severity.WARNING
        return Severity.INFO if lost_decades >= self.info_decades else None

    def _finding(self, recording: Recording, layers: list[Layer], lost: float, severity: Severity) -> Finding:
        rate = rate_decades_per_layer(layers)
        shares = [share for share in decades_by_module_type(recording) if share.decades < 0.0]
        first = layers[0].call
        message = (
            f"The gradient loses {lost:.1f} decades on its way from the output to the first of {len(layers)} layers: a "
            f"factor of {10**rate:.3g} per layer."
        )
        evidence: dict[str, float | int | str] = {
            "lost_decades": lost,
            "rate_decades_per_layer": rate,
            "factor_per_layer": 10**rate,
            "num_layers": len(layers),
            "first_layer_gradient_norm": layers[0].gradient_norm,
        }
        evidence |= {f"lost_decades_{share.module_type}": -share.decades for share in shares}
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=(first.module, *_steepest(layers)),
            cause=_cause(shares, chain=is_chain(recording)),
            message=message,
            evidence=evidence,
            remedies=_remedies(shares),
        )


def _steepest(layers: list[Layer]) -> tuple[str, ...]:
    """The modules between whose outputs and the next layer's most is lost, where one place stands out."""
    steps = [
        (before.gain_decades - after.gain_decades, before.call.module)
        for before, after in pairwise(layers)
        if math.isfinite(before.gain_decades) and math.isfinite(after.gain_decades)
    ]
    return tuple(module for step, module in sorted(steps)[:3] if step <= _LOCAL_LOSS_DECADES and module)


def _cause(shares: list[Share], *, chain: bool) -> str:
    if not shares:
        return "No single module loses it; look at the operations between the modules."
    total = sum(share.decades for share in shares)
    parts = [
        f"{share.num_calls} {share.module_type} call{'s' * (share.num_calls > 1)} cost {-share.decades:.1f}"
        for share in shares[:3]
    ]
    of_total = f" of the {-total:.1f} decades to the first layer" if chain else " decades"
    return f"{', '.join(parts)}{of_total}."


def _remedies(shares: list[Share]) -> tuple[str, ...]:
    worst = shares[0].module_type if shares else ""
    squashed = [share.module_type for share in shares if share.module_type in _SQUASHING]
    shortcut = "Add shortcuts around blocks whose input and output shapes match: x + block(x)."
    initialise = (
        "Initialise for the activation: nn.init.kaiming_normal_(weight, nonlinearity='relu') for ReLU, GELU and SiLU, "
        "nn.init.xavier_normal_(weight, gain=nn.init.calculate_gain('tanh')) for tanh; PyTorch's default Linear is "
        "too small for deep networks."
    )
    activate = f"Replace {squashed[0] if squashed else 'the activation'} by ReLU, GELU or SiLU in the hidden layers."
    normalise = "Normalise between blocks (nn.LayerNorm, nn.RMSNorm or nn.BatchNorm before the activation)."
    if worst in _SQUASHING:
        return (activate, shortcut, initialise, normalise)
    if squashed:
        return (shortcut, initialise, activate, normalise)
    return (shortcut, initialise, normalise)
