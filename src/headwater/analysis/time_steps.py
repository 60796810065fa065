"""What a recurrent network does to the gradient from one time step to the one before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headwater.analysis.functional_time_loops import FunctionalTimeLoop, functional_time_loops
from headwater.analysis.time_loops import TimeLoop, time_loops
from headwater.recording import Call, Recording, SignalKind, merged_stats

_READ_SHARE = 0.1  # of the strongest, for a step to count as one that the loss reads
_GATED = ("LSTM", "GRU")  # of the fused ones


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSteps:
    """The gradient over the time steps of one recurrent module.

    Of nn.RNN, nn.LSTM and nn.GRU it is that at each step's input, as the loss of the recorded pass sends it; of a cell that is
    called once per step, that at the state which each call hands to the next; of functional code, that at the product of the state with
    the recurrent parameter.

    Args:
        module: path of the module.
        parameter: of functional code, the recurrent parameter's own name; "" elsewhere.
        module_type: its class; of functional code, that of the module whose forward runs the loop.
        depth: of its call; of the first one for a cell.
        is_fused: all steps in one call.
        is_gated: gates that can be learnt decide what is kept.
        norms: of the gradient, the first step first. Of sequences of different lengths, root mean squares over those that have
            the step, counted from their ends.
        lost_decades: between the steps that the loss reads and the weakest tenth of the steps; 0 where nothing is lost.
        grown_decades: between the former and the strongest tenth.
        decades_per_step: what a step back in time does to a gradient that starts at the end: negative for a loss. nan where
            fewer than two steps have one.
    """

    module: str
    parameter: str = ""
    module_type: str
    depth: int
    is_fused: bool
    is_gated: bool
    norms: tuple[float, ...]
    lost_decades: float
    grown_decades: float
    decades_per_step: float

    @property
    def factor_per_step(self) -> float:
        """What a step back multiplies the gradient's norm by."""
        return 10**self.decades_per_step

    def __str__(self) -> str:
        place = f"'{self.module}' ({self.module_type})" if self.module else f"the model ({self.module_type})"
        if self.parameter:
            return f"{len(self.norms)} products, one per time step, with '{self.parameter}' of {place}"
        unit = "time steps of" if self.is_fused else "calls, one per time step, of"
        return f"{len(self.norms)} {unit} {place}"


def time_steps(recording: Recording) -> tuple[TimeSteps, ...]:
    """One entry for each call of a fused recurrent module that was probed, each cell called once per step, and each loop of functional code.

    >>> from headwater.recording import RecordingBuilder
    >>> time_steps(RecordingBuilder().build())
    ()
    """
    found = [_of_fused(recording, depth) for depth in _probed_calls(recording)]
    found += [_of_loop(recording, loop) for loop in time_loops(recording)]
    found += [_of_functional_loop(loop) for loop in functional_time_loops(recording)]
    return tuple(sorted((steps for steps in found if steps is not None), key=lambda steps: steps.depth))


def rate_decades(norms: Sequence[float]) -> float:
    """Least-squares slope of log10 of the norms per step back in time; nan with fewer than two that are not zero.

    Args:
        norms: the first step first.

    >>> round(rate_decades([0.001, 0.01, 0.1]), 6)
    -1.0
    """
    values = np.asarray(norms, dtype=np.float64)
    back = np.arange(len(values))[::-1]
    usable = (values > 0.0) & np.isfinite(values)
    if usable.sum() < 2:
        return math.nan
    positions, logs = back[usable] - back[usable].mean(), np.log10(values[usable])
    return float(positions @ (logs - logs.mean()) / (positions @ positions))


def _probed_calls(recording: Recording) -> list[int]:
    return [series.depth for series in recording.series("squared_step_gradient")]


def _per_sequence(recording: Recording, name: str, count: str, depth: int) -> np.ndarray:
    """Root mean squares over the sequences, the first step first."""
    squares, counts = (recording.series(which, depth=depth)[0].values for which in (name, count))
    return np.sqrt(squares / np.maximum(counts, 1.0))[::-1]


def _of_fused(recording: Recording, depth: int) -> TimeSteps | None:
    norms = _per_sequence(recording, "squared_step_gradient", "num_step_sequences", depth)
    if not norms.any():  # exactly zero is HW103's
        return None
    read = recording.series("squared_read_gradient", depth=depth)[0].values[::-1]
    is_read = read >= _READ_SHARE**2 * read.max()
    carried = _per_sequence(recording, "squared_carried_gradient", "num_carried_sequences", depth)
    call = recording.calls[depth]
    is_gated = any(kind in call.module_type for kind in _GATED)
    rate = rate_decades(carried.tolist())
    return _made(call, norms, norms[is_read], rate, is_fused=True, is_gated=is_gated)


def _of_loop(recording: Recording, loop: TimeLoop) -> TimeSteps | None:
    norms = np.array([_state_norm(recording, *pair) for pair in zip(loop.calls, loop.states, strict=True)])
    return _of_states(loop.calls[0], norms, is_gated=loop.has_gates)


def _of_functional_loop(loop: FunctionalTimeLoop) -> TimeSteps | None:
    if not all(product.is_finite for product in loop.products):
        return None
    norms = np.nan_to_num([product.gradient_norm for product in loop.products])  # nan where no gradient arrived
    steps = _of_states(loop.call, norms, is_gated=loop.has_gates)
    return None if steps is None else replace(steps, module=loop.module, parameter=loop.parameter)


def _of_states(call: Call, norms: np.ndarray, *, is_gated: bool) -> TimeSteps | None:
    if not np.isfinite(norms).all() or not norms.any():
        return None
    norms = norms[: norms.nonzero()[0][-1] + 1]  # what comes after what the loss reads has none
    return _made(call, norms, norms[-1:], rate_decades(norms.tolist()), is_fused=False, is_gated=is_gated)


def _state_norm(recording: Recording, call: Call, state: tuple[int, ...]) -> float:
    signals = recording.select(SignalKind.ACTIVATION_GRADIENT, depth=call.depth)
    gradient = merged_stats([signal.stats for signal in signals if signal.tensor in state])
    if gradient is None:
        return 0.0
    return math.nan if gradient.nonfinite_count else gradient.norm


def _made(
    call: Call, norms: np.ndarray, at_read: np.ndarray, rate: float, *, is_fused: bool, is_gated: bool
) -> TimeSteps:
    positive = at_read[at_read > 0.0]
    finite = np.sort(np.log10(norms[norms > 0.0]))
    # Of the steps read, the weakest: where a loss reads many of them and the gradient grows, it grows from there.
    reference = float(np.log10(positive.min())) if len(positive) else float(finite[-1])
    tenth = max(1, len(finite) // 10)
    weakest, strongest = np.median(finite[:tenth]), np.median(finite[-tenth:])
    return TimeSteps(
        module=call.module,
        module_type=call.module_type,
        depth=call.depth,
        is_fused=is_fused,
        is_gated=is_gated,
        norms=tuple(norms.tolist()),
        lost_decades=max(0.0, round(reference - float(weakest), 12)),
        grown_decades=max(0.0, round(float(strongest) - reference, 12)),
        decades_per_step=rate,
    )
