"""HW103: a gradient that is exactly zero although the loss has a slope, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gain import cotangent
from headwater.analysis.gradient_path import leaf_calls
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind

_SOFTMAX = ("Softmax", "LogSoftmax", "Softmin")
_PLATEAUS = ("Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", "Softmax", "LogSoftmax")
_RECTIFIERS = ("ReLU", "ReLU6", "Threshold")


@dataclass(frozen=True, slots=True)
class _Cause:
    text: str
    remedies: tuple[str, ...]
    heals: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroGradient:
    """HW103: an exactly zero activation gradient although the loss has a slope at the output.

    Where a parameter that is all zero causes it and gets a gradient itself, the zero is gone after one step. Inside a
    branch that is a design (ReZero, zero-gamma, LoRA's B, adaLN-Zero) and only worth knowing; where everything before it
    waits for that step, it is a warning. No threshold: zero is zero.
    """

    code: ClassVar[str] = "HW103"
    name: ClassVar[str] = "zero-gradient"

    def check(self, recording: Recording) -> Verdict:
        """One finding for each call that turns a gradient into zero, or one for a loss without a slope."""
        reference = cotangent(recording)
        if reference is None:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if reference.nonfinite_count:
            return []  # HW104's
        if reference.is_zero:
            return [self._no_slope()]
        leaves = leaf_calls(recording)
        passed = [call for call in leaves if _passes(recording, call)]
        first_passed = passed[0].depth if passed else len(recording.calls)
        return [
            self._finding(recording, call, passes_around=first_passed < call.depth or _is_added_zero(recording, call))
            for call in leaves
            if _turns_zero(recording, call)
        ]

    def _no_slope(self) -> Finding:
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR,
            modules=("",),
            cause="The loss has no slope at the model's output: it is at a plateau or clipped, or the output does not matter to it.",
            message="The gradient at the model's output is exactly zero, so every gradient is.",
            evidence={"cotangent_norm": 0.0},
            remedies=(
                "Check the loss on this batch: a clamp, a margin that is met, a mask that drops every sample, labels all ignored.",
                "Check that the targets differ from what the output can only be (a softmax over one class is always 1).",
            ),
        )

    def _finding(self, recording: Recording, call: Call, *, passes_around: bool) -> Finding:
        cause = _explain(recording, call)
        severity = Severity.ERROR
        if cause.heals:
            severity = Severity.INFO if passes_around else Severity.WARNING
        name = f"'{call.module}' ({call.module_type})" if call.module else f"the model ({call.module_type})"
        if passes_around:
            reached = "inside a branch: layers before it get theirs another way"
        else:
            reached = "and no layer before it gets any"
        gradient = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=(call.module,),
            cause=cause.text,
            message=f"The gradient becomes exactly zero at {name}, {reached}.",
            evidence={"output_gradient_norm": gradient.norm if gradient else 0.0, "input_gradient_norm": 0.0},
            remedies=cause.remedies,
        )


def _passes(recording: Recording, call: Call) -> bool:
    gradient = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
    return gradient is not None and not gradient.is_zero


def _is_added_zero(recording: Recording, call: Call) -> bool:
    """The call returns zeros that no other call reads, and its caller returns something: it adds them to that.

    LoRA's B beside a frozen base is one: the base carries the signal, and needs no gradient.
    """
    if call.parent < 0 or recording.calls[call.parent].module == "":
        return False
    output = recording.signal(SignalKind.ACTIVATION, call.depth)
    sum_ = recording.signal(SignalKind.ACTIVATION, call.parent)
    if output is None or not output.is_zero or sum_ is None or sum_.is_zero:
        return False
    returned = {signal.tensor for signal in recording.select(SignalKind.ACTIVATION, depth=call.depth)}
    return not any(signal.tensor in returned for signal in recording.select(SignalKind.INPUT))


def _turns_zero(recording: Recording, call: Call) -> bool:
    """The call's output gradient is not zero, but all it passes on is."""
    outgoing = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
    incoming = recording.signal(SignalKind.INPUT_GRADIENT, call.depth)
    return outgoing is not None and incoming is not None and incoming.is_zero and not outgoing.is_zero


def _explain(recording: Recording, call: Call) -> _Cause:
    output = recording.select(SignalKind.ACTIVATION, depth=call.depth)
    if call.module_type in _SOFTMAX and output and output[0].shape and output[0].shape[-1] == 1:
        return _Cause(
            "A softmax over a single unit is 1 whatever its input.",
            (
                "Use a sigmoid (with nn.BCEWithLogitsLoss on the raw output) for one unit, or two units for two classes.",
                "If another dimension holds the classes, name it: nn.Softmax(dim=...).",
            ),
        )
    zero_weight = _all_zero_weight(recording, call)
    if zero_weight is not None:
        name, heals = zero_weight
        text = f"The parameter '{name}' is all zeros"
        if heals:
            return _Cause(
                f"{text}, but gets a gradient itself: after one step it is zero no more, and the gradient passes.",
                (
                    "Leave it if it is meant (ReZero, zero-gamma, LoRA); otherwise initialise it: nn.init.xavier_normal_(weight).",
                ),
                heals=True,
            )
        return _Cause(
            f"{text}, and gets no gradient itself, so it stays so.", ("Initialise it, and let it require a gradient.",)
        )
    if call.module_type in _RECTIFIERS:
        return _Cause(
            "Every unit is off for every sample: all pre-activations that the gradient asks for are negative.",
            (
                "Look at the bias and the scale of the layer before it: a large negative bias or a too large step does this.",
                "Use a rectifier with a slope on both sides: nn.LeakyReLU, nn.GELU, nn.SiLU.",
            ),
        )
    if call.module_type in _PLATEAUS:
        return _Cause(
            "Its input is so large that the derivative is rounded to exactly zero.",
            ("Scale or normalise the input; initialise the layer before it smaller.",),
        )
    return _Cause(
        "The product with its derivative is zero or below the smallest number of its dtype.",
        (
            "Look at what this module multiplies by: a mask, a gate or a scale that is zero; or a dtype that underflows.",
        ),
    )


def _all_zero_weight(recording: Recording, call: Call) -> tuple[str, bool] | None:
    """An all-zero weight of the call's module, and whether it receives a gradient that is not zero."""
    for weight in recording.select(SignalKind.WEIGHT, module=call.module):
        if weight.stats.is_zero and not weight.item.endswith("bias"):
            gradients = [
                signal.stats
                for signal in recording.select(SignalKind.WEIGHT_GRADIENT, module=call.module)
                if signal.item == weight.item
            ]
            return weight.parameter, bool(gradients) and not gradients[0].is_zero
    return None
