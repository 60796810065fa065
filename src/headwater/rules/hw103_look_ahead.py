"""What a look one or two steps ahead says about a zero gradient: whether it is gone then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from headwater.analysis.dataflow import Dataflow
from headwater.analysis.zero_origins import ZeroOrigin
from headwater.recording import Recording, SignalKind
from headwater.rules.hw103_known_causes import Cause, Kind

_STEPS_TO_GRADIENT = "num_steps_to_gradient"  # see headwater.capture.look_ahead


class LookAhead:
    """Says of the places of one recording what became of the parameters behind them in the steps that were tried."""

    def __init__(self, recording: Recording, flow: Dataflow) -> None:
        self._recording = recording
        self._flow = flow
        self._steps: dict[str, list[float]] = {}
        for series in recording.series(_STEPS_TO_GRADIENT):
            for module in self_and_ancestors(series.module):
                self._steps.setdefault(module, []).append(float(series.values[0]))

    def refutes(self, cause: Cause, origin: ZeroOrigin) -> bool:
        """Whether a cause that steps should end was tried, and nothing behind the place got a gradient."""
        steps = self._steps_behind(origin) if cause.kind is Kind.HEALS and cause.if_tried is not None else []
        return bool(steps) and min(steps) == math.inf

    def with_outcome(self, cause: Cause, origin: ZeroOrigin) -> Cause:
        """The cause, with what the steps have shown; as it is where they show nothing or it is a matter of this pass."""
        steps = self._steps_behind(origin) if cause.kind in (Kind.FAULT, Kind.HEALS) else []
        if not steps:
            return cause
        most = max(steps)
        if math.isfinite(most) and cause.if_tried is not None:
            when = "one step" if most == 1.0 else "two steps"
            clause, remedies = cause.if_tried
            text = f"{clause}: every gradient that it makes zero becomes non-zero after {when} of training (tried on this batch)."
            return Cause(Kind.HEALED, text, remedies)
        if min(steps) < math.inf:  # some do: what stays is another cause's
            return cause
        return replace(cause, text=f"{cause.text} Two steps of training, tried on this batch, do not change it.")

    def _steps_behind(self, origin: ZeroOrigin) -> list[float]:
        """Of the parameters that get no gradient because of a place: those of the calls whose output leads there."""
        unseen = [origin.depth] if origin.is_after else self._producers(origin.depth)
        seen: set[int] = set()
        found: dict[str, list[float]] = {}
        while unseen:
            depth = unseen.pop()
            gradient = self._recording.signal(SignalKind.ACTIVATION_GRADIENT, depth)
            if depth in seen or gradient is None or not gradient.is_zero:
                continue
            seen.add(depth)
            module = self._recording.calls[depth].module
            found[module] = self._steps.get(module, [])
            unseen += self._producers(depth)
        return [number for numbers in found.values() for number in numbers]

    def _producers(self, depth: int) -> list[int]:
        return [made for tensor in self._flow.inputs[depth] for made in self._flow.producers.get(tensor, ())]


def self_and_ancestors(module: str) -> Iterator[str]:
    """The path of a module, and those of all around it.

    >>> list(self_and_ancestors("a.b"))
    ['a.b', 'a', '']
    """
    yield module
    while module:
        module = module.rpartition(".")[0]
        yield module
