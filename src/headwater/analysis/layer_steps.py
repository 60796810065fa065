"""What the optimiser's next step does, layer by layer: how far it moves the weights, and how many it leaves where they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headwater.analysis.gain import activation_gradient, cotangent
from headwater.analysis.parametrizations import is_leaf
from headwater.recording import ParameterInfo, Recording, Signal, SignalKind

# Of a recording with its series; each counts weights that have a gradient, by the whole decades that epsilon takes.
_COUNTS = ("num_with_gradient", "num_unchanged", "num_lost_to_rounding", "num_lost_at_full_rate")


@dataclass(frozen=True, slots=True)
class LayerStep:
    """The next step of one matrix: a parameter of two or more dimensions.

    Args:
        parameter: which one.
        module_type: class name of its module.
        depth: of the module's first call; -1 if it never ran.
        update, weight: as measured; the update is the new values minus the old ones.
        counts: `num_with_gradient`, `num_unchanged` and, where the optimiser's formula is known, `num_lost_to_rounding` and
            `num_lost_at_full_rate`; entry d of each counts the weights whose step epsilon shrinks by d whole decades.
        rate, full_rate: learning rate now, and the highest one that the schedule tells of.
        epsilon: of the optimiser; nan without.
    """

    parameter: ParameterInfo
    module_type: str
    depth: int
    update: Signal
    weight: Signal | None
    counts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rate: float = math.nan
    full_rate: float = math.nan
    epsilon: float = math.nan

    @property
    def num_with_gradient(self) -> float:
        """Weights that have a gradient."""
        return sum(self.counts.get("num_with_gradient", ()))

    @property
    def is_exact(self) -> bool:
        """Whether the optimiser's formula is known, and so the reasons are."""
        return "num_lost_at_full_rate" in self.counts

    def share_shrunk(self, decades: int) -> float:
        """Share of the weights with a gradient whose step epsilon shrinks by a factor of 10**decades or more; nan of none.

        It includes the last bin's, which has no upper end.
        """
        return self._share("num_with_gradient", slice(decades, None))

    def share_rounded(self, decades: int) -> float:
        """Share of the weights with a gradient whose step is rounded away also at the full rate, and that epsilon leaves.

        Where the optimiser's formula is not known, those that do not change now, at the rate that it has; none at a rate of zero.
        """
        if self.is_exact:
            return self._share("num_lost_at_full_rate", slice(decades))
        return self._share("num_unchanged", slice(decades)) if self.rate else 0.0

    def _share(self, name: str, decades: slice) -> float:
        num_all = self.num_with_gradient
        return sum(self.counts.get(name, ())[decades]) / num_all if num_all else math.nan


def layer_steps(recording: Recording) -> list[LayerStep]:
    """The steps of the matrices, in the order that their modules ran in; empty where no step was observed.

    Vectors (biases, gains of norms, LayerScale) start at zero or one and are not a layer by themselves: they are left out.

    >>> from headwater.recording import RecordingBuilder
    >>> layer_steps(RecordingBuilder().build())
    []
    """
    parameters = {parameter.name: parameter for parameter in recording.parameters}
    weights = {signal.parameter: signal for signal in recording.select(SignalKind.WEIGHT)}
    counts: dict[str, dict[str, list[float]]] = {}
    for name in (*_COUNTS, "learning_rate", "full_learning_rate", "epsilon"):
        for one in recording.series(name):
            full_name = f"{one.module}.{one.item}" if one.module else one.item
            counts.setdefault(full_name, {})[name] = one.values.tolist()
    steps = [
        _step(parameters[update.parameter], update, weights.get(update.parameter), counts.get(update.parameter, {}))
        for update in recording.select(SignalKind.UPDATE)
        if len(parameters[update.parameter].shape) >= 2
    ]
    return sorted(steps, key=lambda step: (step.depth < 0, step.depth))


def _step(
    parameter: ParameterInfo, update: Signal, weight: Signal | None, numbers: Mapping[str, Sequence[float]]
) -> LayerStep:
    return LayerStep(
        parameter,
        update.module_type,
        update.depth,
        update,
        weight,
        {name: numbers[name] for name in _COUNTS if name in numbers},
        *(numbers.get(name, [math.nan])[0] for name in ("learning_rate", "full_learning_rate", "epsilon")),
    )


def loss_slope(recording: Recording) -> float:
    """By how much the loss changes, to first order, if every output moves by one where it helps: the L1 norm of dL/dy.

    In units of the loss. For a mean cross-entropy it is 2 (1 - p), p being the probability of the label; for a mean squared error
    twice the mean error. inf where it is not known.

    >>> from headwater.recording import RecordingBuilder
    >>> loss_slope(RecordingBuilder().build())
    inf
    """
    slope = cotangent(recording)
    return math.inf if slope is None or not slope.finite_count else slope.mean_abs * slope.finite_count


def cancellation_decades(recording: Recording, step: LayerStep) -> float:
    """How much smaller the weight gradient is than that of as many unrelated samples, as a positive number of decades; nan if unknown.

    dL/dW is the sum of delta h^T over N samples and positions. If they are unrelated its norm is about
    norm(delta) norm(h) / sqrt(N). In a network that has converged they cancel, although each may be large.

    >>> from headwater.recording import ParameterInfo, RecordingBuilder, Signal, TensorStats
    >>> nothing = Signal("", 0, -1, SignalKind.UPDATE, "weight", "Linear", (1, 1), "float32", 0, TensorStats(1))
    >>> info = ParameterInfo("", "weight", (1, 1), "float32", True, True, True)
    >>> cancellation_decades(RecordingBuilder().build(), LayerStep(info, "Linear", -1, nothing, None))
    nan
    """
    if step.depth < 0 or not recording.calls:
        return math.nan
    delta = activation_gradient(recording, step.depth)
    source = recording.signal(SignalKind.INPUT, step.depth)
    item = step.parameter.name.rpartition(".")[2]
    found = [
        signal.stats
        for signal in recording.select(SignalKind.WEIGHT_GRADIENT, module=step.parameter.module)
        if signal.item == item
    ]
    if delta is None or source is None or not found or not found[0].norm:
        return math.nan
    num_terms = max(delta.numel / step.parameter.shape[0], 1.0)
    expected = delta.norm * source.norm / math.sqrt(num_terms)
    return math.log10(expected / found[0].norm) if expected else math.nan


def scaling_down_decades(recording: Recording) -> dict[str, float]:
    """By how many decades less gradient arrives at a module than at the input of a block around it, by module.

    Large where a branch is scaled down (LayerScale); zero or less in a chain.

    >>> from headwater.recording import RecordingBuilder
    >>> scaling_down_decades(RecordingBuilder().build())
    {}
    """
    around: list[float] = []  # the largest gradient norm at the input of a call that it is nested in
    at_input: list[float] = []
    found: dict[str, float] = {}
    for call in recording.calls:
        outer = 0.0 if call.parent < 0 else max(around[call.parent], at_input[call.parent])
        around.append(outer)
        own = None if is_leaf(recording, call) else recording.signal(SignalKind.INPUT_GRADIENT, call.depth)
        at_input.append(0.0 if own is None else own.norm)
        gradient = activation_gradient(recording, call.depth)
        if gradient is not None and gradient.norm:
            decades = math.log10(outer / gradient.norm) if outer > gradient.norm else 0.0
            found[call.module] = max(found.get(call.module, 0.0), decades)
    return found
