"""HW302: gradients too small, or too large, for the format of few bits that they are computed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.layer_steps import scaling_down_decades
from headwater.analysis.underflow import Lost, Tail
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording, Signal, SignalKind
from headwater.recording.float_formats import FLOAT_FORMATS, FloatFormat
from headwater.rules.wording import distinct

_GRADIENTS = (SignalKind.ACTIVATION_GRADIENT, SignalKind.WEIGHT_GRADIENT)
_ASK = "pass precision='float16' to diagnose()"
_IN_A_BRANCH = " It lies in a branch that is scaled down: its gradient grows as soon as the scale has been trained."


@dataclass(frozen=True, slots=True)
class _Judged:
    """One gradient and what its format loses of it, with the loss as it is."""

    signal: Signal
    tail: Tail
    lost: Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Underflow:
    """HW302: of some layer's gradient, float16 (bfloat16, an 8-bit format) rounds too much to zero, or cannot hold the largest.

    Judged are activation and weight gradients, by the share of entries and by their share of the sum of squares: entries that weigh
    nothing, as of classes that are ruled out, are no loss. The thresholds are what a normal distribution loses whose deviation is the
    smallest number of the format (share erf(1 / (2 sqrt 2))), and half of it (erf(1 / sqrt 2)). Of a gradient that is in the
    format already, the zeros are judged by the entries next to zero: ReLU's zeros have no such neighbours.

    Args:
        warning_entries: share of entries lost at a deviation of the smallest number.
        warning_energy: share of the sum of squares lost there.
        error_entries: share of entries lost at half of that deviation.
        error_energy: share of the sum of squares lost there.
        saved_entries: share that may still be lost for a loss scale to do (Micikevicius et al. 2018, arXiv 1710.03740,
            section 3.2: scale so that the small ones are kept and the largest stays below the largest number).
        min_entries: that are not zero, for a tensor to be judged; a share of fewer is chance.
        branch_decades: that less gradient arrives inside of a block than at its input, for the branch to be scaled down on
            purpose (LayerScale): a hundredth. What is lost there is only worth knowing.
    """

    code: ClassVar[str] = "HW302"
    name: ClassVar[str] = "underflow"

    warning_entries: float = 0.38
    warning_energy: float = 0.03
    error_entries: float = 0.68
    error_energy: float = 0.19
    saved_entries: float = 0.01
    min_entries: int = 32
    branch_decades: float = 2.0

    def check(self, recording: Recording) -> Verdict:
        """At most two findings for each format: for what is rounded to zero, and for what is too large."""
        gradients = [signal for kind in _GRADIENTS for signal in recording.select(kind)]
        if not gradients:
            return NotApplicable("no backward pass was recorded: call backward() inside record(), or use diagnose()")
        if recording.context.cotangent == "random":
            return NotApplicable("random cotangents have no scale that training would have: pass loss= to diagnose()")
        asked = {one.item for one in recording.series("precision")}
        by_format: dict[FloatFormat, list[Signal]] = {}
        seen: set[tuple[int, str]] = set()
        for signal in gradients:
            name = signal.dtype if signal.dtype in FLOAT_FORMATS else next(iter(asked), None)
            # A vector's gradient is a sum of activation gradients, and may be noise: that of an attention's key bias is zero.
            is_vector = signal.kind is SignalKind.WEIGHT_GRADIENT and len(signal.shape) < 2
            if name is not None and not is_vector and (signal.tensor, signal.kind) not in seen:
                seen.add((signal.tensor, signal.kind))
                by_format.setdefault(FLOAT_FORMATS[name], []).append(signal)
        if not by_format:
            return NotApplicable(f"no gradient has 16 bits or fewer: {_ASK}")
        if not any(signal.stats.exponents for signals in by_format.values() for signal in signals):
            return NotApplicable(f"the exponents of the gradients were not recorded: {_ASK}")
        return [f for form, signals in by_format.items() for f in self._of_format(recording, form, signals)]

    def _of_format(self, recording: Recording, form: FloatFormat, signals: Sequence[Signal]) -> list[Finding]:
        scale = recording.context.backward_scale_exponent
        judged = [_judged(signal, form, scale) for signal in signals if signal.stats.exponents is not None]
        judged = [one for one in judged if one.tail.num_entries >= self.min_entries]
        lost = [one for one in judged if self._severity(one.lost) is not None]
        largest = max(signals, key=lambda signal: signal.stats.max_abs)
        scaled_down = scaling_down_decades(recording)
        groups: dict[Severity, list[_Judged]] = {
            Severity.ERROR: [],
            Severity.INFO: [],
        }  # by the highest severity possible
        for one in lost:
            is_in_branch = scaled_down.get(one.signal.module, 0.0) >= self.branch_decades
            groups[Severity.INFO if is_in_branch else Severity.ERROR].append(one)
        found: list[Finding] = []
        for cap, group in groups.items():
            if group:
                found.append(self._underflow(form, group, len(judged), largest.stats.max_abs, cap))
        if largest.stats.max_abs > form.largest:
            found.append(self._overflow(form, largest))
        return found

    def _severity(self, lost: Lost) -> Severity | None:
        if lost.entries >= self.error_entries and lost.energy >= self.error_energy:
            return Severity.ERROR
        is_much = lost.entries >= self.warning_entries and lost.energy >= self.warning_energy
        return Severity.WARNING if is_much else None

    def _loss_scale_exponent(self, form: FloatFormat, lost: Sequence[_Judged], largest: float) -> int:
        """The smallest power of two that saves all, or the largest that does not push the largest gradient over the top."""
        highest = form.largest_scale_exponent(largest)
        for exponent in range(1, highest):
            if all(one.tail.lost(exponent).entries <= self.saved_entries for one in lost):
                return exponent
        return highest

    def _underflow(
        self, form: FloatFormat, lost: Sequence[_Judged], num_judged: int, largest: float, cap: Severity
    ) -> Finding:
        worst = max(lost, key=lambda one: (self._severity(one.lost) or 0, one.lost.entries))
        exponent = self._loss_scale_exponent(form, lost, largest)
        left = max(one.tail.lost(exponent).entries for one in lost)
        percent, percent_left = 100.0 * worst.lost.entries, 100.0 * left
        is_rounded = worst.tail.is_rounded
        verb = "are" if is_rounded else "would be"
        more = f" So it is, in part, for {len(lost)} of {num_judged} gradients." if len(lost) > 1 else ""
        return Finding(
            code=self.code,
            name=self.name,
            severity=min(self._severity(worst.lost) or Severity.WARNING, cap),
            modules=distinct([worst.signal.module, *(one.signal.module for one in lost)]),
            cause=(
                f"The smallest number of {form.name} is 2**{form.smallest_exponent}: what is at most half of it becomes zero. "
                f"The gradient is of that size with the loss as it is{_saves(exponent, left, self.saved_entries)}."
                f"{_IN_A_BRANCH if cap is Severity.INFO else ''}"
            ),
            message=(
                f"{percent:.3g} % of the entries of the {_what(worst.signal)} {verb} rounded to zero in {form.name}, with "
                f"{100.0 * worst.lost.energy:.3g} % of its sum of squares.{more}"
            ),
            evidence={
                "percent_lost": percent,
                "percent_of_squares_lost": 100.0 * worst.lost.energy,
                "num_gradients_with_loss": len(lost),
                "num_gradients": num_judged,
                "smallest_exponent": form.smallest_exponent,
                "largest_gradient": largest,
                "loss_scale_exponent": exponent,
                "loss_scale": 2.0**exponent,
                "percent_lost_with_loss_scale": percent_left,
                "format": form.name,
            },
            remedies=_remedies(form, exponent, left, self.saved_entries),
        )

    def _overflow(self, form: FloatFormat, signal: Signal) -> Finding:
        exponent = form.largest_scale_exponent(signal.stats.max_abs)
        return Finding(
            code=self.code,
            name=self.name,
            severity=Severity.ERROR,
            modules=(signal.module,),
            cause=f"The largest number of {form.name} is {form.largest:.6g}: the gradient, or the loss scale, is too large for it.",
            message=(
                f"The largest entry of the {_what(signal)}, {signal.stats.max_abs:.3g}, is past the largest number of {form.name}."
            ),
            evidence={
                "largest_gradient": signal.stats.max_abs,
                "largest_number": form.largest,
                "loss_scale_exponent": exponent,
                "loss_scale": math.ldexp(1.0, exponent),
                "format": form.name,
            },
            remedies=(
                f"Multiply the loss by 2**{exponent} ({math.ldexp(1.0, exponent):.3g}) or less; torch.amp.GradScaler finds such a scale.",
                "Use bfloat16, which holds numbers as large as float32's.",
                "Look for what makes the gradient grow (HW102).",
            ),
        )


def _judged(signal: Signal, form: FloatFormat, scale_exponent: int) -> _Judged:
    tail = Tail(signal.stats, form, is_rounded=signal.dtype == form.name, scale_exponent=scale_exponent)
    return _Judged(signal, tail, tail.lost())


def _what(signal: Signal) -> str:
    name = f"'{signal.module}' ({signal.module_type})" if signal.module else "the model"
    if signal.kind is SignalKind.WEIGHT_GRADIENT:
        return f"gradient of '{signal.parameter}'"
    return f"gradient at the output of {name}"


def _saves(exponent: int, left: float, saved_entries: float) -> str:
    if exponent <= 0:
        return ", and the largest entry leaves no room for a larger loss"
    if left <= saved_entries:
        return f"; a loss scale of 2**{exponent} saves it"
    return (
        f"; even a loss scale of 2**{exponent}, the largest possible, leaves {100.0 * left:.2g} % of the entries lost"
    )


def _remedies(form: FloatFormat, exponent: int, left: float, saved_entries: float) -> tuple[str, ...]:
    scale = f"Multiply the loss by 2**{exponent} ({2.0**exponent:.6g}) and divide the gradients by it; torch.amp.GradScaler does both."
    wider = "Let more gradient arrive there (HW101): the gradients of this network span more than the format does."
    bfloat = "Use bfloat16, whose smallest number is 2**-133, and which needs no loss scale."
    own = "Scale each tensor by a factor of its own, as recipes for 8 bits do."
    first = () if exponent <= 0 else (scale,)
    other = (own,) if form.name.startswith("float8") else (bfloat,) if form.name == "float16" else ()
    return (*first, *other, wider) if left <= saved_entries else (*other, *first, wider)
