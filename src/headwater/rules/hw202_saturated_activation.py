"""HW202: squashing activations whose inputs are so large that their derivative is gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis import lines_of_modules
from headwater.analysis.causes import Cause, cause_of
from headwater.analysis.functional_activations import FunctionalActivation, functional_activations
from headwater.analysis.gain import backward_gain
from headwater.analysis.gradient_path import leaf_calls
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, Signal, SignalKind, SourceLine, TensorStats
from headwater.rules.wording import distinct, named

# The mean derivative, relative to the largest, is a moment of the output:
# tanh' = 1 - y², sigmoid' = y - y² (at most 1/4), softsign' = (1 - |y|)². ReLU6 is judged at its upper plateau alone, where
# y² = 36: units that are off are HW201's.
_FROM_OUTPUT: Mapping[str, Callable[[TensorStats], float]] = {
    "Tanh": lambda y: 1.0 - y.rms**2,
    "Sigmoid": lambda y: 4.0 * (y.mean - y.rms**2),
    "Softsign": lambda y: 1.0 - 2.0 * y.mean_abs + y.rms**2,
    "ReLU6": lambda y: 1.0 - y.rms**2 / 36.0,
}
# The slope of these is one number or zero: the square of the gain over the slope is the share of the gradient's energy
# that passes.
_SLOPE: Mapping[str, float] = {"Hardtanh": 1.0, "Hardsigmoid": 1.0 / 6.0}
_INSIDE = "tanh_derivative_inside"  # series: sum and count, by layer
_CANNOT_SEE_INSIDE = {
    "LSTM",
    "GRU",
    "LSTMCell",
    "GRUCell",
    "MultiheadAttention",
    "F.scaled_dot_product_attention",
}  # without lines
_MOST_LINES = 3
_REMEDIES = (
    "Scale the data to zero mean and unit deviation.",
    "Initialise the layer before it smaller (Xavier), or normalise before the activation (nn.LayerNorm).",
    "Use an activation without plateaus on both sides: ReLU, GELU, SiLU.",
)
_SOFTMAX_REMEDIES = (
    "Divide the scores by the square root of the width of a head, as scaled_dot_product_attention does.",
    "Normalise queries and keys, or initialise the layers that make them smaller.",
)


@dataclass(frozen=True, slots=True)
class _Squashed:
    """One call, as a module or as a function, and its mean derivative as a part of the largest."""

    name: str
    module: str
    fraction: float
    input_rms: float
    is_last: bool
    is_softmax: bool
    is_recurrent: bool
    choice: tuple[float, float, float] | None  # the loss with it, with none and by lot, where it serves the loss
    lines: tuple[SourceLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaturatedActivation:
    """HW202: the derivative of a squashing activation, averaged over the batch, is a small part of its maximum.

    Judged from the output's moments (for nn.Hardtanh and nn.Hardsigmoid from the gradient that passes), whatever the loss
    (Glorot & Bengio 2010 watch the same plateaus); the tanh of nn.RNN from 1 - h²; functions in a module's forward from their values, a softmax from 1 - sum p²
    over what it is at equal probabilities. A softmax that has learned to point is sharp by right: it is told, no more, where its own
    choice has a lower loss than none and than choices by lot. The model's last activation is exempt from warnings: a confident
    classifier sits on its plateau by right.

    Args:
        warning_fraction: of the largest derivative; a tanh gets there with pre-activations of deviation 8, a softmax where the largest
            probability of a row is 0.95 on average.
        error_fraction: of the largest derivative; deviation 80.
        choice_sigmas: standard deviations of the loss over choices by lot that a softmax's own choice must lie below their mean to
            serve the loss. One that has nothing to do with the targets is like one more lot; at 5, with 16 lots, one in 10,000 would
            lie there by chance (Student's t).
    """

    code: ClassVar[str] = "HW202"
    name: ClassVar[str] = "saturated-activation"

    warning_fraction: float = 0.1
    error_fraction: float = 0.01
    choice_sigmas: float = 5.0

    def check(self, recording: Recording) -> Verdict:
        """One finding for each severity, naming the calls, the most saturated first."""
        squashed = [*_modules(recording), *_recurrent(recording), *_functions(recording, self.choice_sigmas)]
        if not squashed:
            return NotApplicable(_why_not(recording))
        groups: dict[Severity, list[_Squashed]] = {}
        for found in squashed:
            severity = self._severity(found)
            if severity is not None:
                groups.setdefault(severity, []).append(found)
        return [self._finding(severity, groups[severity]) for severity in sorted(groups, reverse=True)]

    def _severity(self, found: _Squashed) -> Severity | None:
        if not found.fraction < self.warning_fraction:
            return None
        if found.is_last or found.choice is not None:
            return Severity.INFO
        return Severity.ERROR if found.fraction < self.error_fraction and not found.is_softmax else Severity.WARNING

    def _finding(self, severity: Severity, found: Sequence[_Squashed]) -> Finding:
        ordered = sorted(found, key=lambda saturated: saturated.fraction)
        worst, num_more = ordered[0], len(ordered) - 1
        percent = 100 * worst.fraction
        more = f" At {num_more} more calls it is small, too." if num_more else ""
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([saturated.module for saturated in ordered]),
            cause=_cause(worst),
            message=f"The derivative of {worst.name} is on average {percent:.2g} % of its largest.{more}",
            evidence={
                "mean_derivative_percent": percent,
                "input_rms": worst.input_rms,
                "num_calls": len(ordered),
                "num_more_calls": num_more,
                **_losses_by_choice(worst),
            },
            remedies=_remedies(worst),
            lines=tuple(dict.fromkeys(line for one in ordered for line in one.lines))[:_MOST_LINES],
        )


def _why_not(recording: Recording) -> str:
    inside = {call.module_type for call in recording.calls if call.module_type in _CANNOT_SEE_INSIDE}
    blind = f"; it cannot see inside of {', '.join(sorted(inside))}" if inside else ""
    return (
        "no squashing activation that Headwater sees (sigmoid, tanh, softsign, softmax...) was called; diagnose() looks at functions "
        f"too{blind}"
    )


def _cause(worst: _Squashed) -> str:
    if worst.choice is not None:
        own, without, by_lot = worst.choice
        return (
            f"What it chooses serves the loss, which is {own:.3g}; it would be {without:.3g} with equal probabilities, and {by_lot:.3g} "
            "with a choice by lot. So it is where training has taught it to point. Its layers hardly train any further."
        )
    if worst.is_recurrent:
        return f"Its inputs (RMS {worst.input_rms:.3g}) or its recurrent weights are too large: a tanh's slope ends at about 3."
    if worst.is_softmax:
        return f"Its inputs are too large: RMS {worst.input_rms:.3g}, where scores of about 1 leave it a choice."
    return f"Its inputs are too large: RMS {worst.input_rms:.3g}, where its slope ends at about 3."


def _losses_by_choice(worst: _Squashed) -> dict[str, float]:
    names = ("loss_with_its_choice", "loss_without_a_choice", "loss_with_a_choice_by_lot")
    return {} if worst.choice is None else dict(zip(names, worst.choice, strict=True))


def _remedies(worst: _Squashed) -> tuple[str, ...]:
    if worst.choice is not None:
        return ("Nothing, if what it points at is what it shall point at.", *_SOFTMAX_REMEDIES)
    return _SOFTMAX_REMEDIES if worst.is_softmax else _REMEDIES


def _modules(recording: Recording) -> Iterator[_Squashed]:
    leaves = leaf_calls(recording)
    returned = _returned(recording)
    for call in leaves:
        if call.module_type not in _FROM_OUTPUT and call.module_type not in _SLOPE:
            continue
        source = recording.signal(SignalKind.INPUT, call.depth)
        made = {signal.tensor for signal in _outputs(recording, call)}
        yield _Squashed(
            name=named(call),
            module=call.module,
            fraction=_mean_relative_derivative(recording, call),
            input_rms=math.nan if source is None else source.rms,
            is_last=call.depth == leaves[-1].depth or bool(made & returned),
            is_softmax=False,
            is_recurrent=False,
            choice=None,
            lines=lines_of_modules(recording, [call.module], limit=1),
        )


def _recurrent(recording: Recording) -> Iterator[_Squashed]:
    """Calls of fused recurrent modules with tanh, each by the layer that is most saturated."""
    by_call: dict[int, list[tuple[float, str]]] = {}
    for one in recording.series(_INSIDE):
        total, count = one.values.tolist()
        by_call.setdefault(one.depth, []).append((max(total / count, 0.0) if count else math.nan, one.item))
    returned = _returned(recording)
    last = max((call.depth for call in leaf_calls(recording)), default=-1)
    for depth, layers in by_call.items():
        call, source = recording.calls[depth], recording.select(SignalKind.INPUT, depth=depth)
        fraction, layer = min(layers)
        made = {signal.tensor for signal in _outputs(recording, call)}
        yield _Squashed(
            name=f"the tanh in layer {layer} of {named(call)}" if len(layers) > 1 else f"the tanh in {named(call)}",
            module=call.module,
            fraction=fraction,
            input_rms=source[0].stats.rms if source else math.nan,
            is_last=depth == last or bool(made & returned),
            is_softmax=False,
            is_recurrent=True,
            choice=None,
            lines=lines_of_modules(recording, [call.module], limit=1),
        )


def _functions(recording: Recording, choice_sigmas: float) -> Iterator[_Squashed]:
    for found in functional_activations(recording):
        if math.isnan(found.mean_derivative):
            continue
        call, line, name = recording.calls[found.operation.depth], found.operation.line, found.operation.name
        is_fused = cause_of(name) is Cause.ATTENTION
        yield _Squashed(
            name=f"{'the softmax inside of ' if is_fused else ''}{name} in {named(call)}",
            module=call.module,
            fraction=max(found.mean_derivative, 0.0),
            input_rms=found.input_rms,
            is_last=found.is_last,
            is_softmax=is_fused or name.endswith("softmax"),
            is_recurrent=False,
            choice=_choice(found) if found.choice_serves_the_loss(choice_sigmas) else None,
            lines=() if line is None else (line,),
        )


def _choice(found: FunctionalActivation) -> tuple[float, float, float]:
    own, without, by_lot, *_ = found.choice_losses.tolist()
    return own, without, by_lot


def _mean_relative_derivative(recording: Recording, call: Call) -> float:
    """Between 0 and 1; nan where it is unknown."""
    if call.module_type in _SLOPE:
        return min((backward_gain(recording, call.depth) / _SLOPE[call.module_type]) ** 2, 1.0)
    output = recording.signal(SignalKind.ACTIVATION, call.depth)
    if output is None or not output.finite_count:
        return math.nan
    # Rounding can take the difference of two moments below zero.
    return max(_FROM_OUTPUT[call.module_type](output), 0.0)


def _returned(recording: Recording) -> set[int]:
    """Tensors that the model returned."""
    return {s.tensor for depth in recording.children(-1) for s in _outputs(recording, recording.calls[depth])}


def _outputs(recording: Recording, call: Call) -> list[Signal]:
    return recording.select(SignalKind.ACTIVATION, depth=call.depth)
