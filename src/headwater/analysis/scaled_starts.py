"""What the gradient loses on its way by geometry, or at an output layer that starts small: neither is a vanishing network."""

from __future__ import annotations

import math
from itertools import pairwise

from headwater.analysis.causes import Cause
from headwater.analysis.waterfall import Waterfall
from headwater.recording import Recording, SignalKind

# Functions that average over positions. What modules do that have no parameters is counted by `pooling_decades`.
_AVERAGES = ("mean", "avg_pool1d", "avg_pool2d", "avg_pool3d")
_AVERAGES_ADAPTIVELY = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
# Of PyTorch's default initialisation of a linear layer: weights of variance 1/(3 fan_in), so that a norm is divided by sqrt(3).
DEFAULT_LAYER_DECADES = -0.5 * math.log10(3.0)


def averaging_decades(way: Waterfall) -> float:
    """What averages called as functions cost on the only way: at most zero.

    The mean of P positions divides the gradient's norm by sqrt(P), and the weights before it, which sum over P positions, get it
    back: as for the modules that `pooling_decades` counts.

    >>> averaging_decades(Waterfall((), ""))
    0.0
    """
    names = (*_AVERAGES, *_AVERAGES_ADAPTIVELY)
    return math.fsum(
        min(step.decades, 0.0)
        for step in way.steps
        if step.cause is not Cause.LOSS and step.operation.rpartition(".")[2] in names and math.isfinite(step.decades)
    )


def attention_decades(recording: Recording, way: Waterfall) -> float:
    """What an attention costs because it averages over positions, where it is the only way: at most zero.

    Attention starts as the mean of S values and divides the gradient's norm by sqrt(S), which the weights behind it, shared by S
    positions, get back, as with pooling: so it is between a decoder and its encoder. Never more than the step lost, and counted
    once: what was averaged is not made smaller by the next average.

    >>> from headwater.recording import RecordingBuilder
    >>> attention_decades(RecordingBuilder().build(), Waterfall((), ""))
    0.0
    """
    given_back = [0.0]
    for step, behind in pairwise(way.steps):
        if step.cause is Cause.ATTENTION and math.isfinite(step.decades):
            made = recording.select(SignalKind.ACTIVATION, module=behind.module)
            positions = made[0].shape[-2] if made and len(made[0].shape) == 3 else 1
            given_back.append(max(step.decades, -0.5 * math.log10(max(positions, 1))))
    return min(given_back)


def small_head_decades(way: Waterfall) -> float:
    """What the output layer costs beyond PyTorch's default initialisation: at most zero.

    A head that starts small (a policy's, muP's, that of a library's fixed deviation at a small width) gets its own gradient in
    full, whatever its weights are, and grows within a few steps.

    >>> small_head_decades(Waterfall((), ""))
    0.0
    """
    first = next((step for step in way.steps if step.cause is Cause.WEIGHTS), None)
    before = () if first is None else way.steps[: way.steps.index(first)]
    if first is None or not math.isfinite(first.decades) or any(step.cause in _HIDDEN for step in before):
        return 0.0
    return min(first.decades - DEFAULT_LAYER_DECADES, 0.0)


_HIDDEN = (Cause.ACTIVATION, Cause.SHORTCUT, Cause.ATTENTION)
