"""What mean-field theory expects of blocks with a shortcut."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.analysis.blocks import Block, BranchWeights
from headwater.analysis.layer_facts import is_same_variance, known_initialisation
from headwater.theory.alignment import output_alignment, slope_alignment, slope_preference
from headwater.theory.finite_width import kappa
from headwater.theory.mean_field import Initialisation, chi, chi_with_shortcut

_KAPPA_OF_WEIGHTS = 2.0  # of a linear layer; see `kappa`


@dataclass(frozen=True, slots=True)
class BlockInitialisation:
    """What the weights of a stack of blocks have been initialised with.

    Args:
        name: "" for no initialisation that is known, or for several.
        weight_variance: sigma_w², the median over all weights that are not all zeros.
        value: sigma_w² of the named initialisation; nan without a name.
    """

    name: str
    weight_variance: float
    value: float

    def of(self, weights: BranchWeights) -> float:
        """sigma_w² to expect: that of the name where there is one, so that a layer which has another one stands out.

        But a zero is meant, and what stands before a norm may have any scale.
        """
        own = weights.weights.initialisation.weight_variance
        is_free = not self.name or weights.is_normalised or own == 0.0
        return own if is_free or is_same_variance(own, self.value) else self.value


def block_initialisation(blocks: Sequence[Block]) -> BlockInitialisation:
    """The initialisation that the weights at each position of the branches share, by their medians over the blocks."""
    positions = [
        statistics.median(found.weights.initialisation.weight_variance for found in same)
        for same in zip(*(block.weights for block in blocks), strict=True)
    ]
    moving = [variance for variance in positions if variance > 0.0]
    if not moving:
        return BlockInitialisation("", 0.0, math.nan)
    named = {known_initialisation(variance) for variance in moving}
    name, value = next(iter(named)) if len(named) == 1 else ("", math.nan)
    return BlockInitialisation(name, statistics.median(moving), value if name else math.nan)


@dataclass(frozen=True, slots=True)
class ExpectedBlock:
    """What a block multiplies the squared norm of the gradient by, as a logarithm.

    Args:
        mean: of ln, at this width.
        limit: ln of its value in the limit of wide layers.
        variance: of ln, over random weights.
        share: how much of a relative change of the branch's squared gradient arrives in the block's.
        below, above: how far it may lie from `mean` in a wide network, where the branch's Jacobian is not all random.
    """

    mean: float
    limit: float
    variance: float
    share: float
    below: float
    above: float


def expected_of_block(block: Block, initialisation: BlockInitialisation, *, deviations: float) -> ExpectedBlock | None:
    """1 + chi + 2 cosine sqrt(chi) with the chi of the branch; None where that is nothing finite.

    The variances of pre-activations, the gains of norms and of an activation behind the sum, the scale and the cosine between the gradients through branch and shortcut are
    those that were measured; the cosine only as far as random weights can make it so: by the alignment of weights and slopes, and by
    the chance of finite width.

    Args:
        block: as it was measured.
        initialisation: of the stack.
        deviations: how many standard deviations of the chance.
    """
    slopes = [chi(each.activation, Initialisation(1.0), each.variance) for each in block.activations]
    sizes = [initialisation.of(weights) * weights.coverage for weights in block.weights]
    branch = block.scale**2 * block.norm_gain * math.prod(slopes) * math.prod(sizes)
    if not 0.0 <= branch < math.inf:
        return None
    aligned = _alignment(block)
    num_channels = min(each.weights.num_inputs for each in block.weights)
    bound = min(1.0, aligned + deviations / math.sqrt(num_channels))
    cosine = min(max(block.cosine, -bound), bound)
    least, middle, most = _excess(block, abs(cosine), aligned)
    found = branch * middle
    squared = chi_with_shortcut(found, cosine=cosine)
    if not squared > 0.0:
        return None
    share = abs(found + cosine * math.sqrt(found)) / squared
    width = min(each.weights.fan_in for each in block.weights)
    behind = 2.0 * math.log(10.0) * block.behind_decades
    return ExpectedBlock(
        mean=behind + math.log(squared) - 0.5 * share * _spread(block, width),
        limit=behind + math.log(squared),
        variance=share * share * _spread(block, num_channels),  # a gradient may be the same at all places of a picture
        share=share,
        below=share * math.log(middle / least),
        above=share * math.log(most / middle),
    )


def _alignment(block: Block) -> float:
    """How far the branch's Jacobian is from a random one."""
    if not block.ends_with_activation or not block.activations:
        return 0.0
    return slope_alignment(block.activations[0].activation, block.activations[0].variance)


def _excess(block: Block, cosine: float, aligned: float) -> tuple[float, float, float]:
    """What the branch's squared gradient is multiplied by because its Jacobian is not all random: least, likely, most.

    With a and b, the cosines of the gradient to a vector of ones and to the stream, the mean of the Jacobian adds (aligned a)², and the
    preference of the stream for steep slopes b² times that. Known is only the cosine between the gradients through branch and shortcut,
    aligned a b; a / b lies between the cosine of the stream to ones and its inverse, which is at least that of one branch's output.
    """
    if aligned < 1e-9:
        return 1.0, 1.0, 1.0
    last = block.activations[0]
    common = output_alignment(last.activation, last.variance)
    likely, most = (
        slope_preference(last.activation, last.variance, stream=block.stream, stream_alignment=x, scale=block.scale)
        for x in (common, 1.0)
    )
    product = min(1.0, cosine / aligned)

    def excess(a_to_b: float, preference: float) -> float:
        return 1.0 + aligned**2 * min(1.0, product * a_to_b) + min(1.0, product / a_to_b) * preference

    middle = excess(1.0, likely)
    if common < 1e-9:
        return middle, middle, middle
    ends = [excess(common, most), excess(1.0 / common, most), middle]
    return min(middle, 1.0 + aligned**2 * product * common), middle, max(ends)


def _spread(block: Block, width: int) -> float:
    """Variance of ln of the branch's squared gradient: kappa / n of each layer (see `headwater.theory.finite_width`)."""
    of_slopes = math.fsum(kappa(each.activation) - _KAPPA_OF_WEIGHTS for each in block.activations)
    return (_KAPPA_OF_WEIGHTS * len(block.weights) + of_slopes) / width
