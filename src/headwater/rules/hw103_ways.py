"""Whether the gradient, or the data, have a way around a place at which the gradient becomes exactly zero."""

from __future__ import annotations

import math
from collections.abc import Collection

from headwater.analysis.dataflow import Dataflow
from headwater.analysis.gradient_path import leaf_calls, trainable_layers
from headwater.analysis.zero_origins import ZeroOrigin
from headwater.recording import Recording, SignalKind

_SPREAD = "relative_spread"  # see headwater.capture.spread
_SAME_ROWS = 2.0**-11  # relative, half an ulp of float16: HW204's bound


class Ways:
    """Whether the gradient has a way around the places of one recording.

    >>> from headwater.analysis.dataflow import dataflow
    >>> from headwater.recording import RecordingBuilder
    >>> recording = RecordingBuilder().build()
    >>> Ways(recording, dataflow(recording)).blocks_nothing(0, ())
    True
    """

    def __init__(self, recording: Recording, flow: Dataflow) -> None:
        self._recording = recording
        self._flow = flow
        passed = (call.depth for call in leaf_calls(recording) if self._gets_some(call.depth))
        self._first_passed = next(passed, len(recording.calls))
        self._layers = trainable_layers(recording)

    def blocks_nothing(self, depth: int, zero_weights: Collection[str]) -> bool:
        """Whether no layer that trains stands before the call, or it is the last in a network with other zero starts."""
        before = [layer for layer in self._layers[:2] if layer.call.depth < depth]
        is_last = bool(self._layers) and depth == self._layers[-1].call.depth
        # Scalars of a block that start at zero (the biases of Fixup) are no layers.
        num_zero = sum(layer.call.module in zero_weights for layer in self._layers)
        return not before or (is_last and 1 < num_zero <= len(self._layers) / 2)

    def lead_around(self, origin: ZeroOrigin, *, heals: bool) -> bool:
        """Whether a call before it gets a gradient, the caller adds something to the zeros that come of it, or the data go around.

        The second is for parameters that start at zero: LoRA's B beside a frozen layer, which needs no gradient. The third for those
        beside a bias, in a network that reads its input again: all samples get the same of it, and differ nevertheless behind it (the
        localisation of a spatial transformer, the first coupling of a normalising flow).
        """
        if self._first_passed < origin.depth:
            return True
        if not heals:
            return False
        if self._data_go_around(origin.depth):
            return True
        depth = origin.depth
        if origin.is_after:  # the caller multiplies what the call returns by zero
            return self._goes_on(self._recording.calls[depth].parent, depth)
        while self._is_zero(depth) and (parent := self._recording.calls[depth].parent) >= 0:
            if not self._is_zero(parent):
                return self._goes_on(parent, depth)
            depth = parent
        return False

    def _data_go_around(self, depth: int) -> bool:
        """Whether the samples differ in the first layer after a call, or in the model's output, though it makes them all alike."""
        after = next(
            (layer.call.depth for layer in self._layers if layer.call.depth > depth), len(self._recording.calls)
        )
        if self._is_noisy(depth, after):
            return False
        place = after if after < len(self._recording.calls) else 0
        spread = next((s.values[0] for s in self._recording.series(_SPREAD) if s.depth == place), 0.0)
        return math.sqrt(spread) > _SAME_ROWS

    def _is_noisy(self, first: int, end: int) -> bool:
        """Whether dropout stands between, by which samples differ that are the same."""
        training = {info.name for info in self._recording.modules if info.training}
        between = self._recording.calls[first:end]
        return any("Drop" in call.module_type and call.module in training for call in between) or any(
            "dropout" in operation.name for operation in self._recording.operations
        )

    def _goes_on(self, parent: int, depth: int) -> bool:
        """Whether the caller's result lives although this call's part in it is zero: it has added something."""
        if parent < 0 or self._is_zero(parent) or self._flow.is_read(depth):
            return False
        later = self._flow.next_siblings[depth]
        while later >= 0:
            source = self._recording.signal(SignalKind.INPUT, later)
            if source is not None and source.is_zero:
                return False
            later = self._flow.next_siblings[later]
        return True

    def _is_zero(self, depth: int) -> bool:
        output = self._recording.signal(SignalKind.ACTIVATION, depth)
        return output is not None and output.is_zero

    def _gets_some(self, depth: int) -> bool:
        gradient = self._recording.signal(SignalKind.ACTIVATION_GRADIENT, depth)
        return gradient is not None and not gradient.is_zero
