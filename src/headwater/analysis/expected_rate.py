"""What mean-field theory expects of the weights that were recorded, beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from headwater.analysis.blocks import Block, longest_run_of_blocks
from headwater.analysis.expected_blocks import block_initialisation, expected_of_block
from headwater.analysis.layer_facts import is_same_variance, known_initialisation, output_variance
from headwater.analysis.stacks import StackLayer, longest_stack
from headwater.analysis.waterfall import Waterfall, waterfall
from headwater.recording import Recording
from headwater.theory.batch_norm import chi_with_batch_norm
from headwater.theory.finite_width import factor_band, kappa
from headwater.theory.mean_field import Initialisation, chi, chi_with_layer_norm

_LEAST_LAYERS = 3
# Half of the band: three standard deviations of a network of this width, and 2 % for what theory leaves out (a batch that
# is no Gaussian, zeros around a picture).
_DEVIATIONS, _SLACK = 3.0, 1.02
_ROUNDING = 1e-6  # relative, of norms that were measured in float32


@dataclass(frozen=True, slots=True)
class ExpectedRate:
    """The factor per layer, or per block with a shortcut, that a gradient's norm is multiplied by in a stack of like ones.

    Args:
        activation: of the stack; several, joined by " and ", where a branch has different ones.
        normalisation: "", "LayerNorm" (also RMSNorm) or "BatchNorm"; of blocks, the type of the norm in the branch.
        num_layers: that the factors are over; of a stack of blocks, how many blocks.
        weight_variance: sigma_w², the median over the layers.
        initialisation: whose variance that is; "" for none that is known.
        measured_factor: the geometric mean.
        expected_factor: by mean-field theory for these weights.
        low, high: what a network of this width may show.
        branch_scale: of blocks x + scale * branch(x), the median of scale; None for layers without a shortcut.
    """

    activation: str
    normalisation: str
    num_layers: int
    weight_variance: float
    initialisation: str
    measured_factor: float
    expected_factor: float
    low: float
    high: float
    branch_scale: float | None = None

    @property
    def is_expected(self) -> bool:
        """Whether the measured factor lies in the band."""
        return self.low <= self.measured_factor <= self.high

    def __str__(self) -> str:
        weights = self.initialisation or f"these weights (sigma_w² = {self.weight_variance:.3g})"
        digits = _digits(self.expected_factor, self.high - self.low)
        band = f"{self.low:.{digits}g} to {self.high:.{digits}g} at this width"
        theory = f"theory {self.expected_factor:.{digits + 1}g}, {band}"
        unit = "layer" if self.branch_scale is None else "block"
        measured = f"{self.measured_factor:.{digits}g} per {unit}"
        verb = "give" if weights.startswith("these") else "gives"
        if self.is_expected:
            return f"{measured} is what {weights} {verb} with {self._parts()} ({theory})."
        ratio = self.measured_factor / self.expected_factor
        how = f"{1 / ratio:.{digits}g} times smaller" if ratio < 1.0 else f"{ratio:.{digits}g} times larger"
        return f"{measured} is {how} than {weights} should give with {self._parts()} ({theory})."

    def _parts(self) -> str:
        parts = [part for part in (self.activation, self.normalisation) if part]
        if self.branch_scale is None:
            return " and ".join(parts)
        is_one = abs(self.branch_scale - 1.0) < 1e-3
        scaled = "" if is_one else f" that is multiplied by {self.branch_scale:.3g}"
        inside = f" with {' and '.join(parts)}" if parts else ""
        return f"a shortcut around a branch{inside}{scaled}"


def _digits(value: float, width: float) -> int:
    """Significant digits that tell the ends of a band apart: three, or more where it is narrow."""
    return min(9, max(3, 2 + math.floor(math.log10(value / width)))) if 0.0 < width < value else 3


def expected_rate(recording: Recording, way: Waterfall | None = None) -> ExpectedRate | None:
    """Theory beside measurement for the longest stack of like layers, or of like blocks with a shortcut, on the gradient's way.

    The stack is read from the waterfall. Layers are linear layers or convolutions that own their weights, each with the same
    activation before the next one, and perhaps a norm; the factors are over the layers but the last, whose activation is not
    followed by weights of the stack. Blocks are x + scale * branch(x) with chains of such layers as branches.

    Args:
        recording: with weights measured.
        way: its waterfall, where it is known already.

    Returns:
        None where no stack of three or more is recognised, or its gradient is zero or not finite.

    >>> from headwater.recording import RecordingBuilder
    >>> expected_rate(RecordingBuilder().build()) is None
    True
    """
    way = way or waterfall(recording)
    layers, blocks = longest_stack(recording, way), longest_run_of_blocks(recording, way)
    if max(len(layers), len(blocks)) < _LEAST_LAYERS:
        return None
    return _of_blocks(blocks) if len(blocks) >= len(layers) else _of_layers(recording, layers)


def _of_layers(recording: Recording, layers: Sequence[StackLayer]) -> ExpectedRate | None:
    variance = statistics.median(layer.weights.initialisation.weight_variance for layer in layers)
    name, _ = known_initialisation(variance)
    measured = math.fsum(layer.decades for layer in layers)
    expected = _expected_decades(recording, layers, variance if name else math.nan)
    if expected is None or not math.isfinite(measured):
        return None
    first = layers[0]
    factor = 10 ** (expected / len(layers))
    widths = [layer.weights.fan_in for layer in layers]
    low, high = factor_band(factor, kappa(first.activation), widths, deviations=_DEVIATIONS)
    return ExpectedRate(
        activation=first.activation.name,
        normalisation=first.normalisation,
        num_layers=len(layers),
        weight_variance=variance,
        initialisation=name,
        measured_factor=10 ** (measured / len(layers)),
        expected_factor=factor,
        low=low / _SLACK,
        high=high * _SLACK,
    )


def _expected_decades(recording: Recording, layers: Sequence[StackLayer], named: float) -> float | None:
    """log10 of what theory expects of the whole stack; None where it expects nothing finite.

    The variances of the pre-activations are those that were measured: how far they stray from the variance map at finite
    width is the forward pass' affair. A layer whose weights are not of the named initialisation is expected to have them: so it
    stands out. The last one is not, the head, which often has another.
    """
    if layers[0].normalisation:
        with_norm = chi_with_layer_norm if layers[0].normalisation == "LayerNorm" else chi_with_batch_norm
        return 0.5 * len(layers) * math.log10(with_norm(layers[0].activation))
    logs = []
    for position, layer in enumerate(layers):
        weights = layer.weights.initialisation
        if position and not math.isnan(named) and not is_same_variance(weights.weight_variance, named):
            weights = Initialisation(named)
        variance = output_variance(recording, layer.before)
        found = math.nan if variance is None else chi(layer.activation, weights, variance)
        if not 0.0 < found < math.inf:
            return None
        logs.append(0.5 * math.log10(found))
    return math.fsum(logs)


def _of_blocks(blocks: Sequence[Block]) -> ExpectedRate | None:
    initialisation = block_initialisation(blocks)
    found = [expected_of_block(block, initialisation, deviations=_DEVIATIONS) for block in blocks]
    expected = [block for block in found if block is not None]
    if len(expected) < len(blocks):
        return None
    count = len(blocks)
    # Halves: of the norm, not of its square.
    middle = 0.5 * math.fsum(block.mean for block in expected) / count
    spread = 0.5 * _DEVIATIONS * math.sqrt(math.fsum(block.variance for block in expected)) / count
    slack = math.log(_SLACK) * math.fsum(block.share for block in expected) / count + _ROUNDING
    names = dict.fromkeys(each.activation.name for block in blocks for each in block.activations)
    return ExpectedRate(
        activation=" and ".join(names),
        normalisation=blocks[0].normalisation,
        num_layers=count,
        weight_variance=initialisation.weight_variance,
        initialisation=initialisation.name,
        measured_factor=10 ** (math.fsum(block.decades for block in blocks) / count),
        expected_factor=math.exp(0.5 * math.fsum(block.limit for block in expected) / count),
        low=math.exp(middle - spread - slack - 0.5 * math.fsum(block.below for block in expected) / count),
        high=math.exp(middle + spread + slack + 0.5 * math.fsum(block.above for block in expected) / count),
        branch_scale=statistics.median(block.scale for block in blocks),
    )
