"""HW101: the gradient loses its size on the way from the output to the first layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gain import backward_gain, cotangent, decades
from headwater.analysis.gradient_path import (
    Layer,
    Share,
    decades_by_module_type,
    headwaters,
    is_chain,
    leaf_calls,
    median_decades,
    pooling_decades,
    rate_decades_per_layer,
    returns_a_number,
    trainable_layers,
)
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording
from headwater.rules.wording import counted, distinct

_SQUASHING = (
    "Sigmoid",
    "LogSigmoid",
    "Tanh",
    "Softsign",
    "Hardsigmoid",
    "Hardtanh",
    "Softmax",
    "LogSoftmax",
    "Softplus",
)
_WEIGHTS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Conv1D")
_RECTIFYING = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish")

_NOTHING_DECADES = 0.05  # not worth a word

_ACTIVATE = "Replace {} in the hidden layers by ReLU or GELU with He initialisation, {} with Xavier initialisation."
_SHORTCUT = "Add shortcuts around blocks whose input and output shapes match: x + block(x)."
_INITIALISE = (
    "Initialise for the activation: nn.init.kaiming_normal_(weight, nonlinearity='relu') for ReLU, GELU and SiLU, "
    "nn.init.xavier_normal_(weight, gain=nn.init.calculate_gain('tanh')) for tanh; PyTorch's default for nn.Linear is "
    "too small for deep networks."
)
_NORMALISE = "Normalise between blocks (nn.LayerNorm, nn.RMSNorm, or nn.BatchNorm before the activation)."
_BETWEEN = (
    "Look at the operations between the modules: functional sigmoid, tanh or softmax, products with small numbers."
)
_AT_CALLS = "Look at what {} does to its input: a saturated activation, a small factor, a division by a large norm."


@dataclass(frozen=True, slots=True, kw_only=True)
class VanishingGradient:
    """HW101: too little of the gradient at the output arrives at the first trainable layers.

    Judged is the activation gradient relative to the gradient at the output, never the weight gradient: forward and
    backward decay can cancel in dL/dW and leave a flat profile in a network that does not learn. Neither the scale of the
    loss nor the width of a layer enters. What average pooling divides by is added back, and a layer inside a block counts
    as reached where the block's input is: a branch that is scaled down (LayerScale) is a design.

    Args:
        info_decades: lost on the way; worth knowing: a factor of 100.
        warning_decades: lost on the way; AutoTrainer's bound on first over last layer, 1e-3 (Zhang et al. 2021); half an
            ulp of bfloat16, 2**-9, is 2.7 decades.
        error_decades: lost on the way; half an ulp of float32, 2**-25: a step that moves the last layer by its own size
            is rounded away at the first.
        call_decades: lost by one call for it to be named; a sigmoid at its steepest loses 0.6.
        call_share: of all decades lost, for the same.
    """

    code: ClassVar[str] = "HW101"
    name: ClassVar[str] = "vanishing-gradient"

    info_decades: float = 2.0
    warning_decades: float = 3.0
    error_decades: float = 7.5
    call_decades: float = 1.0
    call_share: float = 0.2

    def check(self, recording: Recording) -> Verdict:
        """A finding where the median gain to the earliest tenth of the layers is below a threshold."""
        layers = trainable_layers(recording)
        reference = cotangent(recording)
        if reference is None or not layers:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if reference.nonfinite_count:
            return []  # HW104's
        reach = median_decades(layer.reach_decades for layer in headwaters(layers))
        if not math.isfinite(reach):  # exactly zero is HW103's
            return []
        pooling = pooling_decades(recording)
        lost = pooling - reach
        severity = self._severity(lost)
        return [] if severity is None else [self._finding(recording, layers, lost, pooling, severity)]

    def _severity(self, lost_decades: float) -> Severity | None:
        if lost_decades >= self.error_decades:
            return Severity.ERROR
        if lost_decades >= self.warning_decades:
            return Severity.WARNING
        return Severity.INFO if lost_decades >= self.info_decades else None

    def _finding(
        self, recording: Recording, layers: list[Layer], lost: float, pooling: float, severity: Severity
    ) -> Finding:
        first = headwaters(layers)[0]
        rate = rate_decades_per_layer(layers)
        shares = decades_by_module_type(recording, after=first.call.depth)
        steep = self._steep_calls(recording, lost, after=first.call.depth)
        evidence: dict[str, float | int | str] = {
            "lost_decades": lost,
            "pooling_decades": -pooling,
            "rate_decades_per_layer": rate,
            "factor_per_layer": 10**rate,
            "num_layers": len(layers),
            "first_layer_gradient_norm": first.gradient_norm,
        }
        for share in shares:
            evidence[f"decades_{share.module_type or 'between_modules'}"] = share.decades
            evidence[f"num_{share.module_type or 'between_modules'}"] = share.num_calls
            evidence[f"mean_decades_{share.module_type or 'between_modules'}"] = share.decades / share.num_calls
        per_layer = f": a factor of {10**rate:.3g} per layer" if math.isfinite(rate) else ""
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([first.call.module, *(call.module for call in steep)]),
            cause=_cause(shares, chain=is_chain(recording)),
            message=(
                f"The gradient loses {lost:.1f} decades on its way from the output to the first of "
                f"{counted(len(layers), 'layer')}{per_layer}."
            ),
            evidence=evidence,
            remedies=_remedies(shares, steep),
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


def _cause(shares: Sequence[Share], *, chain: bool) -> str:
    losing = [share for share in shares if share.decades < -_NOTHING_DECADES]
    if not losing:
        return "No single module loses it; look at the operations between the modules."
    if not chain:  # what lies side by side does not add up
        parts = [f"{_calls(share)} {-share.decades / share.num_calls:.2g}" for share in losing[:3]]
        return f"{_reason(losing)}: on average a call costs, in decades: {', '.join(parts)}."
    costs = ", ".join(f"{_calls(share)} cost {-share.decades:.1f}" for share in losing[:3])
    adding = [f"{_calls(share)} give {share.decades:.1f} back" for share in shares if share.decades > _NOTHING_DECADES]
    return f"{_reason(losing)}: {'; '.join([f'{costs} decades', *adding[::-1]])}."


def _calls(share: Share) -> str:
    return counted(share.num_calls, f"{share.module_type} call") if share.module_type else "operations between modules"


def _reason(losing: Sequence[Share]) -> str:
    worst = losing[0].module_type
    kinds = {_kind(share.module_type) for share in losing}
    if worst == "":
        return "It is lost in operations between the modules, such as functional activations"
    if worst in _SQUASHING:
        return f"The derivative of {worst} is small"
    if kinds >= {"weights", "rectifier"} or _kind(worst) == "rectifier":
        return "The weights are too small to make up for what the activations cut off"
    if _kind(worst) == "weights":
        return "The weights are too small"
    if worst.endswith("Norm") or "Norm" in worst:
        return f"{worst} divides by the deviation of a large signal"
    return f"It is lost in {worst} calls"


def _kind(module_type: str) -> str:
    if module_type in _WEIGHTS:
        return "weights"
    return "rectifier" if module_type in _RECTIFYING else module_type


def _activate(module_type: str) -> str:
    otherwise = "or keep it" if module_type == "Tanh" else "or by tanh"
    return _ACTIVATE.format(module_type, otherwise)


def _remedies(shares: Sequence[Share], steep: Sequence[Call]) -> tuple[str, ...]:
    losing = [share.module_type for share in shares if share.decades < -_NOTHING_DECADES]
    worst = losing[0] if losing else ""
    squashed = next((module_type for module_type in losing if module_type in _SQUASHING), None)
    if worst in _SQUASHING:
        return (_activate(worst), _SHORTCUT, _NORMALISE)
    if worst == "":
        return (_BETWEEN, _SHORTCUT, _INITIALISE, _NORMALISE)
    if _kind(worst) in ("weights", "rectifier"):
        activate = () if squashed is None else (_activate(squashed),)
        return (_INITIALISE, _SHORTCUT, *activate, _NORMALISE)
    look = _AT_CALLS.format(f"'{steep[0].module}'" if steep else f"each {worst}")
    return (look, _SHORTCUT, _INITIALISE, _NORMALISE)
