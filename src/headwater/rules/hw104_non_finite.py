"""HW104: the first NaN or Inf, its module and its phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind, TensorStats


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """HW104: a value that is not finite: where it is made, in the forward or in the backward pass.

    An error where the loss, the output or a weight gradient is not finite; a warning where a later operation masks it.
    Infinities alone in a forward tensor that nothing turns into NaN (an attention mask) are no finding.
    """

    code: ClassVar[str] = "HW104"
    name: ClassVar[str] = "non-finite"

    def check(self, recording: Recording) -> Verdict:
        """At most one finding: the origin. All that follows from it is not repeated."""
        if not recording.calls:
            return NotApplicable("no call of the model was recorded")
        harmful = _is_harmful(recording)
        return (
            self._weights(recording)
            or self._inputs(recording, harmful=harmful)
            or self._forward(recording, harmful=harmful)
            or self._backward(recording, harmful=harmful)
        )

    def _weights(self, recording: Recording) -> list[Finding]:
        for signal in recording.select(SignalKind.WEIGHT):
            if signal.stats.nonfinite_count:
                return [
                    self._finding(
                        (signal.module,),
                        signal.stats,
                        f"The parameter '{signal.parameter}' itself",
                        "before the pass",
                        "An earlier step wrote it: a gradient that was not finite, or a step that was too large.",
                        ("Go back to a checkpoint that is finite, and record the step that breaks it.",),
                        harmful=True,
                    )
                ]
        return []

    def _inputs(self, recording: Recording, *, harmful: bool) -> list[Finding]:
        for depth in recording.children(-1):
            stats = recording.signal(SignalKind.INPUT, depth)
            if stats is not None and stats.nan_count:
                return [
                    self._finding(
                        (recording.calls[depth].module,),
                        stats,
                        "The model's input",
                        "before the pass",
                        "The data hold it.",
                        (
                            "Check the batch with torch.isfinite, and the normalisation that made it (a zero deviation?).",
                        ),
                        harmful=harmful,
                    )
                ]
        return []

    def _forward(self, recording: Recording, *, harmful: bool) -> list[Finding]:
        origin = next((call for call in recording.calls if _makes_forward(recording, call)), None)
        if origin is None:
            return []
        stats = recording.signal(SignalKind.ACTIVATION, origin.depth)
        assert stats is not None
        if not stats.nan_count and not harmful and not _any_nan(recording):
            return []
        return [
            self._finding(
                (origin.module,),
                stats,
                f"The output of {_called(origin)}",
                "in the forward pass",
                "Its input is finite: the operation leaves its domain or the range of its dtype (exp, log, division, sqrt).",
                (
                    "Keep its input in range: clamp before log, sqrt and division, subtract the maximum before exp.",
                    "In float16, try bfloat16 or float32 for this module.",
                ),
                harmful=harmful,
            )
        ]

    def _backward(self, recording: Recording, *, harmful: bool) -> list[Finding]:
        # The backward pass runs from the last call to the first.
        for call in reversed(recording.calls):
            outgoing = recording.signal(SignalKind.ACTIVATION_GRADIENT, call.depth)
            incoming = recording.signal(SignalKind.INPUT_GRADIENT, call.depth)
            children_made_it = any(_makes_backward(recording, child) for child in recording.children(call.depth))
            if _makes_backward(recording, call.depth) and not children_made_it:
                assert incoming is not None
                return [
                    self._finding_backward(
                        call, incoming, f"The gradient that {_called(call)} sends to its input", harmful=harmful
                    )
                ]
            if outgoing is not None and outgoing.nonfinite_count and not recording.children(call.depth):
                return [
                    self._finding_backward(
                        call, outgoing, f"The gradient at the output of {_called(call)}", harmful=harmful
                    )
                ]
        for signal in recording.select(SignalKind.WEIGHT_GRADIENT):
            if signal.stats.nonfinite_count:
                call = recording.calls[signal.depth] if signal.depth >= 0 else None
                where = _called(call) if call is not None else f"'{signal.module}'"
                return [
                    self._finding(
                        (signal.module,),
                        signal.stats,
                        f"The gradient of the parameter '{signal.parameter}' of {where}",
                        "in the backward pass",
                        _BACKWARD_CAUSE,
                        _BACKWARD_REMEDIES,
                        harmful=True,
                    )
                ]
        return []

    def _finding_backward(self, call: Call, stats: TensorStats, what: str, *, harmful: bool) -> Finding:
        return self._finding(
            (call.module,), stats, what, "in the backward pass", _BACKWARD_CAUSE, _BACKWARD_REMEDIES, harmful=harmful
        )

    def _finding(
        self,
        modules: tuple[str, ...],
        stats: TensorStats,
        what: str,
        phase: str,
        cause: str,
        remedies: tuple[str, ...],
        *,
        harmful: bool,
    ) -> Finding:
        masked = "" if harmful else " Every weight gradient is finite: something masks it later."
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR if harmful else Severity.WARNING,
            modules=modules,
            cause=cause,
            message=(
                f"{what} is the first that is not finite, {phase}: {stats.nan_count} NaN and {stats.inf_count} Inf of "
                f"{stats.numel} values.{masked}"
            ),
            evidence={
                "nan_count": stats.nan_count,
                "inf_count": stats.inf_count,
                "numel": stats.numel,
                "phase": phase,
            },
            remedies=remedies,
        )


_BACKWARD_CAUSE = (
    "The forward values are finite but a derivative is not: sqrt or a norm at 0, acos or asin at ±1, torch.where with an "
    "infinite branch that is not taken, a fully masked attention row."
)
_BACKWARD_REMEDIES = (
    "Move the guard inside: torch.where(ok, x, 1) before the operation, not only torch.where(ok, f(x), 0) after it.",
    "Add an eps under the root, or use a function with a safe derivative (F.normalize with eps, torch.linalg.vector_norm).",
)


def _makes_forward(recording: Recording, call: Call) -> bool:
    """The call's output is not finite, its input is, and none of the calls it made did it."""
    output = recording.signal(SignalKind.ACTIVATION, call.depth)
    source = recording.signal(SignalKind.INPUT, call.depth)
    if output is None or not output.nonfinite_count or (source is not None and source.nonfinite_count):
        return False
    return not any(
        (inner := recording.signal(SignalKind.ACTIVATION, child)) is not None and inner.nonfinite_count
        for child in recording.children(call.depth)
    )


def _makes_backward(recording: Recording, depth: int) -> bool:
    outgoing = recording.signal(SignalKind.ACTIVATION_GRADIENT, depth)
    incoming = recording.signal(SignalKind.INPUT_GRADIENT, depth)
    return (
        incoming is not None and incoming.nonfinite_count > 0 and outgoing is not None and outgoing.nonfinite_count == 0
    )


def _is_harmful(recording: Recording) -> bool:
    """Whether the loss, the model's output or a weight gradient is not finite."""
    loss = recording.context.loss
    if loss is not None and not abs(loss) < float("inf"):
        return True
    outputs = [recording.signal(SignalKind.ACTIVATION, depth) for depth in recording.children(-1)]
    gradients = [signal.stats for signal in recording.select(SignalKind.WEIGHT_GRADIENT)]
    return any(stats is not None and stats.nonfinite_count for stats in (*outputs, *gradients))


def _any_nan(recording: Recording) -> bool:
    return any(signal.stats.nan_count for signal in recording)


def _called(call: Call) -> str:
    return f"'{call.module}' ({call.module_type})" if call.module else f"the model ({call.module_type})"
