"""What a gradient loses and gains on its way to the first layer, in words, and what helps against that."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.analysis import Waterfall, waterfall
from headwater.analysis.causes import Cause, cause_of
from headwater.analysis.gradient_path import decades_by_module_type
from headwater.analysis.waterfall import BETWEEN_MODULES
from headwater.recording import Call, Recording, SignalKind, SourceLine
from headwater.rules.wording import counted

_SQUASHING = "sigmoid logsigmoid tanh softsign hardsigmoid hardtanh softmax logsoftmax log_softmax softmin softplus"
_RECTIFYING = "relu relu6 leakyrelu leaky_relu prelu rrelu elu celu selu gelu silu mish hardswish newgeluactivation"
_NOTHING_DECADES = 0.05  # not worth a word
_MOST_NAMED = 3

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


@dataclass(frozen=True, slots=True)
class Part:
    """What one kind of operation does to the gradient on its way to the first layer.

    Args:
        cause: what kind it is.
        name: of the operation or module type; "" stands for all that no module does.
        decades: negative for a loss.
        calls: how often.
        weight_rms: of a norm's weights, the median over its modules; nan for what has none.
    """

    cause: Cause
    name: str
    decades: float
    calls: int
    weight_rms: float = math.nan

    @property
    def has_small_weights(self) -> bool:
        """Whether more than half of what a norm costs is what its own weights multiply by."""
        mean = self.decades / self.calls
        return 0.0 < self.weight_rms < 1.0 and math.log10(self.weight_rms) < 0.5 * mean

    @property
    def is_squashing(self) -> bool:
        """Whether it is an activation with plateaus on both sides, or none at all."""
        return _plain(self.name) in _SQUASHING.split()

    @property
    def is_rectifying(self) -> bool:
        """Whether it is an activation that cuts one side off."""
        return _plain(self.name) in _RECTIFYING.split()


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to the gradient between the output and a layer.

    Args:
        parts: the largest loss first.
        way: the waterfall that the parts are of; None where there is none, and the parts lie side by side.
    """

    parts: tuple[Part, ...]
    way: Waterfall | None

    @property
    def losing(self) -> list[Part]:
        """The parts that are worth a word."""
        return [part for part in self.parts if part.decades < -_NOTHING_DECADES]

    @property
    def adding(self) -> list[Part]:
        """What makes the gradient larger, by a worthwhile amount, the most first."""
        return [part for part in self.parts[::-1] if part.decades > _NOTHING_DECADES]

    def evidence(self) -> dict[str, float | int | str]:
        """Every number that `cause_in_words` may state."""
        found: dict[str, float | int | str] = {}
        if self.way is not None:
            found["way_decades"] = self.way.gain_decades
        for part in self.parts:
            name = part.name or "between_modules"
            found[f"decades_{name}"] = part.decades
            found[f"num_{name}"] = part.calls
            found[f"mean_decades_{name}"] = part.decades / part.calls
            if part.has_small_weights:
                found[f"weight_rms_{name}"] = part.weight_rms
        return found


def change_on_the_way(recording: Recording, first: Call) -> Change:
    """What the gradient is lost in between the output and a layer.

    From the waterfall where there is one to this layer, else from the types of the modules behind it.
    """
    way = waterfall(recording)
    steps = [step for step in way.steps if step.cause is not Cause.LOSS]
    if steps and way.module == first.module and all(math.isfinite(step.decades) for step in steps):
        parts = [
            Part(
                p.cause,
                "" if p.operation == BETWEEN_MODULES else p.operation,
                p.decades,
                p.calls,
                _weight_rms(recording, p.modules) if p.cause is Cause.NORMALISATION else math.nan,
            )
            for p in way.parts
            if p.cause is not Cause.LOSS
        ]
        return Change(tuple(parts), way)
    shares = decades_by_module_type(recording, after=first.depth)
    return Change(tuple(Part(cause_of(s.module_type), s.module_type, s.decades, s.num_calls) for s in shares), None)


def _weight_rms(recording: Recording, modules: Sequence[str]) -> float:
    found = [
        signal.stats.rms
        for module in modules
        for signal in recording.select(SignalKind.WEIGHT, module=module)
        if signal.item == "weight"
    ]
    return statistics.median(found) if found else math.nan


def cause_in_words(loss: Change) -> str:
    """One sentence: what it is lost in, how much of it, and what gives some of it back."""
    losing = loss.losing
    if not losing:
        return "No single module loses it; look at the operations between the modules."
    if loss.way is None:  # what lies side by side does not add up
        parts = [f"{_calls(part)} {-part.decades / part.calls:.2g}" for part in losing[:_MOST_NAMED]]
        return f"{_reason(losing)}: on average a call costs, in decades: {', '.join(parts)}."
    first, *others = losing[:_MOST_NAMED]
    all_of_it = loss.way.gain_decades
    # Less in all than in the first part, as they are printed: some is given back.
    of_all = f" of {-all_of_it:.1f}" if round(all_of_it, 1) <= round(first.decades, 1) else ""
    costs = [f"{_subject(first)} costs {-first.decades:.1f}{of_all} decades over {counted(first.calls, 'call')}"]
    costs += [f"{_subject(part)} {-part.decades:.1f} over {part.calls}" for part in others]
    back = [
        f"{_subject(part)} gives {part.decades:.1f} back"
        for part in loss.parts[::-1]
        if part.decades > _NOTHING_DECADES
    ]
    words = "; ".join([", ".join(costs), *back[:_MOST_NAMED]])
    reason = _reason(losing)
    return f"{reason}: {words}." if reason else f"{words}."


def growth_in_words(loss: Change) -> str:
    """What makes a gradient grow, and how much of it; "" where that is not known."""
    if loss.way is None or not loss.adding:
        return ""
    parts = [
        f"{_subject(part)} adds {part.decades:.1f} decades over {counted(part.calls, 'call')}" for part in loss.adding
    ]
    return ", ".join(parts[:_MOST_NAMED])


def lines_of_part(loss: Change, part: Part) -> tuple[SourceLine, ...]:
    """The lines that a part's steps were called from, the largest change first; at most three."""
    steps = () if loss.way is None else loss.way.steps
    own = [step for step in steps if (step.cause, step.operation) == (part.cause, part.name) and step.line is not None]
    lines = [step.line for step in sorted(own, key=lambda step: -abs(step.decades)) if step.line is not None]
    return tuple(dict.fromkeys(lines))[:_MOST_NAMED]


def remedies_for(loss: Change, steep: Sequence[Call]) -> tuple[str, ...]:
    """What to do, the most effective first.

    Args:
        loss: where it goes.
        steep: single calls that stand out.
    """
    losing = loss.losing
    if not losing:
        return (_BETWEEN, _SHORTCUT, _INITIALISE, _NORMALISE)
    worst = losing[0]
    squashing = next((part for part in losing if part.is_squashing), None)
    if worst.is_squashing:
        return (_activate(worst), _SHORTCUT, _NORMALISE)
    if worst.cause is Cause.WEIGHTS or worst.is_rectifying:
        activate = () if squashing is None else (_activate(squashing),)
        return (_INITIALISE, _SHORTCUT, *activate, _NORMALISE)
    if not worst.name:
        return (_BETWEEN, _SHORTCUT, _INITIALISE, _NORMALISE)
    look = _AT_CALLS.format(f"'{steep[0].module}'" if steep else f"each {worst.name}")
    return (look, _SHORTCUT, _INITIALISE, _NORMALISE)


def _reason(losing: Sequence[Part]) -> str:
    """What is behind it, where that is more than the part's own name."""
    worst = losing[0]
    if not worst.name:
        return "It is lost in operations between the modules, such as functional activations"
    if worst.is_squashing:
        return ""
    weights = any(part.cause is Cause.WEIGHTS for part in losing)
    rectifier = any(part.is_rectifying for part in losing)
    if worst.is_rectifying or (worst.cause is Cause.WEIGHTS and rectifier):
        return "The weights are too small to make up for what the activations cut off"
    if worst.cause is Cause.WEIGHTS and weights:
        return "The weights are too small"
    if worst.has_small_weights:
        return f"{worst.name} multiplies by weights of its own that are small (RMS {worst.weight_rms:.2g})"
    if worst.cause is Cause.NORMALISATION:
        return f"{worst.name} divides by the deviation of a large signal"
    return ""


def _subject(part: Part) -> str:
    if not part.name:
        return "what stands between the modules"
    if part.cause is Cause.ACTIVATION:
        return f"{part.name}'s derivative"
    if part.cause is Cause.SHORTCUT:
        return f"{part.name} with its shortcut"
    return part.name


def _calls(part: Part) -> str:
    return counted(part.calls, f"{part.name} call") if part.name else "operations between modules"


def _activate(part: Part) -> str:
    otherwise = "or keep it" if _plain(part.name) == "tanh" else "or by tanh"
    return _ACTIVATE.format(part.name, otherwise)


def _plain(name: str) -> str:
    return name.rpartition(".")[2].strip("_").lower()
