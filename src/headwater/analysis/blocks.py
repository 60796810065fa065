"""Recognises stacks of like blocks with a shortcut: x + a * branch(x), with a branch of weights, activations and norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from headwater.analysis.branches import BranchPart, BranchReader
from headwater.analysis.causes import Cause, hands_on
from headwater.analysis.layer_facts import Weights, activation_of, weights_of
from headwater.analysis.waterfall import Waterfall, WaterfallStep
from headwater.recording import Recording, SignalKind
from headwater.theory.activations import Activation

_SAME_SHORTCUT = 1e-3  # relative: how far what comes through the shortcut may be from what arrived
_MATRICES = ("linear", "conv1d", "conv2d", "conv3d")
_SCALINGS = ("mul", "rmul", "imul", "div", "truediv", "itruediv", "neg")


@dataclass(frozen=True, slots=True)
class BranchWeights:
    """Weights in a branch.

    Args:
        weights: as they are.
        coverage: the part of a kernel that lies on the picture, averaged over its places; 1 for a matrix.
        is_normalised: a norm divides by the size of what they return, so that their scale is of no consequence.
    """

    weights: Weights
    coverage: float
    is_normalised: bool


@dataclass(frozen=True, slots=True)
class BranchActivation:
    """An activation in a branch, and the variance of what it reads."""

    activation: Activation
    variance: float


@dataclass(frozen=True, slots=True)
class Block:
    """One block of x + branch(x), as theory needs it; weights and activations in the gradient's order.

    Args:
        kind: the names of the branch's parts; blocks of one kind are alike.
        weights, activations: of the branch.
        normalisation: "", or the type of the branch's norms.
        norm_gain: square of what the branch's norms multiply the gradient's norm by, as measured.
        scale: what the branch is multiplied by, as measured.
        decades: of the gradient over the block.
        cosine: of the angle between the gradients through branch and shortcut, as measured.
        stream: mean square of what the block reads; 0 where it is not known.
        ends_with_activation: nothing but a scale comes behind the last activation.
        modules: that ran in the branch.
        behind: name of an activation behind the sum, "" without.
        behind_decades: what that costs, as measured; part of `decades`.
    """

    kind: tuple[str, ...]
    weights: tuple[BranchWeights, ...]
    activations: tuple[BranchActivation, ...]
    normalisation: str
    norm_gain: float
    scale: float
    decades: float
    cosine: float
    stream: float
    ends_with_activation: bool
    modules: tuple[str, ...]
    behind: str = ""
    behind_decades: float = 0.0


def longest_run_of_blocks(recording: Recording, way: Waterfall) -> list[Block]:
    """The longest run of blocks of one kind on the gradient's way, in its order; empty without any.

    >>> from headwater.recording import RecordingBuilder
    >>> longest_run_of_blocks(RecordingBuilder().build(), Waterfall((), ""))
    []
    """
    return max(_runs(recording, way.steps), key=len, default=[])


def _runs(recording: Recording, steps: Sequence[WaterfallStep]) -> Iterator[list[Block]]:
    if not any(step.cause is Cause.SHORTCUT for step in steps):
        return
    current: list[Block] = []
    for block in _blocks(recording, steps):
        if len(current) == 1 and block is not None and not block.behind and block.kind == current[0].kind:
            current = [_without_behind(current[0])]  # an activation behind the last block is the head's
        if current and block is not None and _are_alike(block, current[0]) and _are_apart(block, current):
            current.append(block)
            continue
        if current:
            yield current
        current = [block] if block is not None else []
    if current:
        yield current


def _blocks(recording: Recording, steps: Sequence[WaterfallStep]) -> Iterator[Block | None]:
    """The blocks on the way, each with an activation behind its sum; None where something else stands."""
    reader = BranchReader(recording)
    behind: WaterfallStep | None = None
    for step in steps:
        if step.cause is Cause.SHORTCUT:
            block = _block(recording, reader, step)
            if block is not None and behind is not None:
                name, decades = behind.operation.rpartition(".")[2].lower(), block.decades + behind.decades
                block = replace(block, behind=name, behind_decades=behind.decades, decades=decades)
            behind = None
            yield block
        elif not (hands_on(step.operation) and abs(step.decades) < 1e-6):  # no view between two blocks
            if behind is not None or step.cause is not Cause.ACTIVATION:
                yield None
            behind = step if step.cause is Cause.ACTIVATION else None


def _without_behind(block: Block) -> Block:
    return replace(block, behind="", behind_decades=0.0, decades=block.decades - block.behind_decades)


def _are_alike(block: Block, other: Block) -> bool:
    return (block.kind, block.behind) == (other.kind, other.behind)


def _are_apart(block: Block, blocks: Sequence[Block]) -> bool:
    """Whether a block has weights of its own: what theory expects holds for independent ones."""
    return not any(set(block.modules) & set(other.modules) for other in blocks)


def _block(recording: Recording, reader: BranchReader, step: WaterfallStep) -> Block | None:
    share, shortcut = step.branch_share, step.shortcut_share
    parts = reader.branch(step.operations)
    if parts is None or share is None or shortcut is None or not abs(shortcut - 1.0) < _SAME_SHORTCUT:
        return None
    if not all(_is_known(part) for part in parts):
        return None
    weights = [_weights(recording, parts, part) for part in parts if part.cause is Cause.WEIGHTS]
    activations = [_activation(recording, reader, parts, part) for part in parts if part.cause is Cause.ACTIVATION]
    norms = [part for part in parts if part.cause is Cause.NORMALISATION]
    scale = math.sqrt(_product(part for part in parts if part.cause is not Cause.NORMALISATION and _is_measured(part)))
    norm_gain = _product(norms)
    if not weights or None in weights or None in activations:
        return None
    if share == 0.0:  # nothing arrives at what comes before the zero
        scale, norm_gain = (0.0 if math.isnan(scale) else scale), 1.0
    if not math.isfinite(scale * norm_gain * step.decades):
        return None
    inner = [part.cause for part in parts if not _is_measured(part) or part in norms]
    return Block(
        kind=tuple(_plain(part) for part in parts if not _is_measured(part) or part in norms),
        weights=tuple(found for found in weights if found is not None),
        activations=tuple(found for found in activations if found is not None),
        normalisation=norms[0].name.rpartition(".")[2] if norms else "",
        norm_gain=norm_gain,
        scale=scale,
        decades=step.decades,
        cosine=(100.0**step.decades - 1.0 - share * share) / (2.0 * share) if share > 0.0 else 0.0,
        stream=_stream(reader, parts, weights, activations),
        ends_with_activation=inner[0] is Cause.ACTIVATION,
        modules=tuple(part.module for part in parts if part.cause is Cause.WEIGHTS),
    )


def _stream(
    reader: BranchReader,
    parts: Sequence[BranchPart],
    weights: Sequence[BranchWeights | None],
    activations: Sequence[BranchActivation | None],
) -> float:
    """Mean square of what a block reads: as measured, or by the variance map from what the first weights return."""
    measured = reader.mean_square(parts[-1].reads)
    if measured is not None:
        return measured
    first, last = weights[-1], activations[-1] if activations else None
    if parts[-1].cause is not Cause.WEIGHTS or first is None or last is None:
        return 0.0
    found = first.weights.initialisation
    spread = max(0.0, last.variance - found.bias_variance)
    return spread / found.weight_variance if found.weight_variance > 0.0 else 0.0


def _product(parts: Iterable[BranchPart]) -> float:
    return math.prod(part.squared_gain for part in parts)


def _plain(part: BranchPart) -> str:
    return part.name.rpartition(".")[2].lower().replace("_", "")


def _is_measured(part: BranchPart) -> bool:
    """Whether what it does to the gradient is read off and not expected: norms divide by the size of what they read."""
    return part.cause not in (Cause.WEIGHTS, Cause.ACTIVATION)


def _is_known(part: BranchPart) -> bool:
    if part.cause is Cause.WEIGHTS:
        return _plain(part) in _MATRICES
    return part.cause in (Cause.ACTIVATION, Cause.NORMALISATION) or hands_on(part.name) or _plain(part) in _SCALINGS


def _weights(recording: Recording, parts: Sequence[BranchPart], part: BranchPart) -> BranchWeights | None:
    found = weights_of(recording, part.module)
    coverage = _coverage(recording, part.module)
    if found is None or coverage is None:
        return None
    behind = parts[parts.index(part) - 1]
    return BranchWeights(found, coverage, behind.cause is Cause.NORMALISATION)


def _coverage(recording: Recording, module: str) -> float | None:
    """Which part of a kernel lies on the picture, of convolutions that keep its size; None for others.

    At a distance of j < p from the edge of N places, p - j of the 2 p + 1 taps of a row lie outside: p (p + 1) / ((2 p + 1) N).
    """
    weight = next((s for s in recording.select(SignalKind.WEIGHT, module=module) if s.item == "weight"), None)
    output = next(iter(recording.select(SignalKind.ACTIVATION, module=module)), None)
    if weight is None or output is None:
        return None
    kernel = weight.shape[2:]
    config = next((info.config for info in recording.modules if info.name == module), "")
    if not kernel or "padding_mode" in config:
        return 1.0
    if "dilation" in config or any(size % 2 == 0 for size in kernel):
        return None
    sides = zip(kernel, output.shape[-len(kernel) :], strict=True)
    return math.prod(1.0 - (size // 2) * (size // 2 + 1) / (size * places) for size, places in sides)


def _activation(
    recording: Recording, reader: BranchReader, parts: Sequence[BranchPart], part: BranchPart
) -> BranchActivation | None:
    activation = activation_of(recording, part.name, part.module)
    following = parts[parts.index(part) + 1 :]
    is_behind_norm = bool(following) and following[0].cause is Cause.NORMALISATION
    variance = reader.mean_square(part.reads)
    if variance is None and is_behind_norm:
        variance = 1.0
    return None if activation is None or variance is None else BranchActivation(activation, variance)
