"""Which operations make a gradient zero by their own derivative: no other batch, mask or choice would let it through."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from headwater.analysis.causes import Cause, cause_of, is_product
from headwater.analysis.operation_path import OperationFlow, operation_flow
from headwater.analysis.zero_lines import operations_turning_zero
from headwater.analysis.zero_origins import ZeroOrigin
from headwater.recording import Recording, SignalKind

_OWN_SLOPES = "operations_with_own_slopes"  # see headwater.capture.operation_assembly

# Of a loss that asks for a margin: rectifiers, and what their zeros are put through.
_MARGINS = ("relu", "clamp", "clip", "clamp_min", "clamp_max", "threshold", "square", "pow", "abs", "sqrt")


class ZeroSlopes:
    """Tells, for the places of one recording at which the gradient becomes zero, what makes it so; known where lines were traced.

    A function of one tensor that keeps its shape (a rounding, a sign, a clamp, a rectifier, a product with a number) has nothing but its own
    derivative to make zeros of. A product with another tensor, an index, a choice between branches may leave out one batch and
    let the next one through; and a margin of the loss may be met.

    >>> from headwater.recording import RecordingBuilder
    >>> ZeroSlopes(RecordingBuilder().build()).are_to_blame(ZeroOrigin(0, is_after=True))
    False
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def are_to_blame(self, origin: ZeroOrigin, *, with_numbers: bool = True) -> bool:
        """Whether every way out of the place ends at an operation whose own derivative is zero.

        Args:
            origin: the place.
            with_numbers: a product with a number counts, too: it is as fixed as a rounding, unless code drops blocks by it.
        """
        if not self._own:
            return False
        turning = operations_turning_zero(self._recording, self._flow, origin)
        return bool(turning) and all(self._is_own(index, with_numbers=with_numbers) for index in turning)

    def _is_own(self, index: int, *, with_numbers: bool) -> bool:
        name = self._flow.operations[index].name
        if index not in self._own or "drop" in name or (is_product(name) and not with_numbers):
            return False
        if "softmax" in name and self._reads_scores(index):
            return False
        return not (name.rpartition(".")[2].strip("_") in _MARGINS and self._is_in_the_loss(index))

    def _is_in_the_loss(self, index: int) -> bool:
        """Whether no product with weights comes after it: a rectifier there is a margin, which this batch may meet.

        In the forward of a model that returns nothing like a loss, it is a part of the output.
        """
        if self._flow.operations[index].depth >= 0 and not self._returns_a_loss:
            return False
        return not any(map(self._is_no_part_of_a_margin, self._flow.readers_of([index]) - {index}))

    def _reads_scores(self, index: int) -> bool:
        """Whether a softmax is an attention's over one key: how many keys there are is the batch's affair.

        Its scores are products, of tensors of which one has one place. (A softmax along the wrong dimension has one, too.)
        """
        index = self._merge_before(index)
        edges = self._flow.producers[index]
        if len(edges) < 2 or cause_of(self._flow.operations[index].name) is not Cause.WEIGHTS:
            return False
        shapes = [shape for edge in edges if (shape := self._shape_before(edge.producer)) is not None]
        return not shapes or any(1 in shape[:-1] for shape in shapes)

    def _merge_before(self, index: int) -> int:
        """The operation itself, or the nearest one before it that reads several tensors, or none."""
        while len(self._flow.producers[index]) == 1:
            index = self._flow.producers[index][0].producer
        return index

    def _shape_before(self, index: int) -> tuple[int, ...] | None:
        """Of the nearest tensor that a module has returned, on the only way to it."""
        while index not in self._shapes and len(self._flow.producers[index]) == 1:
            index = self._flow.producers[index][0].producer
        return self._shapes.get(index)

    def _is_no_part_of_a_margin(self, index: int) -> bool:
        """A product with weights, or a function that a margin is not put through: an exponential, a logarithm."""
        name = self._flow.operations[index].name
        cause = cause_of(name)
        return cause is Cause.WEIGHTS or (
            cause is Cause.ACTIVATION and name.rpartition(".")[2].strip("_") not in _MARGINS
        )

    @cached_property
    def _returns_a_loss(self) -> bool:
        """A number; or, beside other outputs, one for each sample."""
        tops = self._recording.children(-1)
        returned = [s.shape for depth in tops for s in self._recording.select(SignalKind.ACTIVATION, depth=depth)]
        return () in returned or (len(returned) > 1 and any(len(shape) == 1 for shape in returned))

    @cached_property
    def _shapes(self) -> Mapping[int, tuple[int, ...]]:
        """By the operation that made it, the shape of what a module returned."""
        makers = self._recording.operation_by_tensor
        made = self._recording.select(SignalKind.ACTIVATION)
        return {makers[signal.tensor]: signal.shape for signal in made if signal.tensor in makers}

    @cached_property
    def _own(self) -> frozenset[int]:
        found = self._recording.series(_OWN_SLOPES) if self._recording.operations else ()
        return frozenset(int(index) for series in found for index in series.values)

    @cached_property
    def _flow(self) -> OperationFlow:
        return operation_flow(self._recording)
