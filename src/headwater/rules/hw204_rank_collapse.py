"""HW204: what the last layer reads is the same for every sample, though the inputs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gradient_path import leaf_calls
from headwater.analysis.layer_spreads import LayerSpread, layer_spreads
from headwater.analysis.parametrizations import layer_of
from headwater.analysis.tensor_graph import TensorGraph
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind
from headwater.rules.wording import counted, distinct, named

_SERIES, _READ_SERIES = "relative_spread", "relative_spread_read"  # see headwater.capture.spread
_LEAST_LAYERS = 3
_LEAST_WEIGHT = 2.0**-11  # half an ulp of float16: what is added with less of it leaves a number there as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCollapse:
    """HW204: the representations of all samples (of all positions, in a sequence) have become one, up to rounding.

    Judged is the relative spread, the root of the share of an activation's energy that differs between rows, after the last
    hidden layer, beside that after the first; and, up to rounding, of what the output layer reads, for the samples may become one
    between the two (an average over the batch). In the ordered phase of mean-field theory correlations tend to one exponentially
    (Poole et al. 2016, arXiv 1606.05340); attention without shortcuts loses rank doubly so (Dong et al. 2021, arXiv
    2103.03404).

    Args:
        warning_spread: relative; half an ulp of float16, 2**-11: there the rows are equal in it.
        error_spread: relative; half an ulp of float32, 2**-24.
        least_at_start: relative spread after the first layer below which the batch itself is one sample, repeated.
    """

    code: ClassVar[str] = "HW204"
    name: ClassVar[str] = "rank-collapse"

    warning_spread: float = 2.0**-11
    error_spread: float = 2.0**-24
    least_at_start: float = 0.01

    def check(self, recording: Recording) -> Verdict:
        """At most one finding, at the first layer after which the rows stay equal."""
        spreads = {series.depth: math.sqrt(series.values[0]) for series in recording.series(_SERIES)}
        if not spreads:
            return NotApplicable(
                "rows were not compared: use diagnose() with lines, on a batch of at least two samples"
            )
        owners = {layer_of(parameter.module) for parameter in recording.parameters}
        layers = [call for call in leaf_calls(recording) if call.module in owners]
        return self._between_layers(layer_spreads(recording)) or self._before_the_output(recording, layers, spreads)

    def _between_layers(self, layers: Sequence[LayerSpread]) -> list[Finding]:
        if len(layers) < _LEAST_LAYERS:
            return []
        hidden = layers[:-1]
        start, end = hidden[0].spread, hidden[-1].spread
        if end > self.warning_spread or start < self.least_at_start:
            return []
        first = next(i for i in range(len(hidden)) if all(one.spread <= self.warning_spread for one in hidden[i:]))
        layer = hidden[first]
        line = None if layer.operation is None else layer.operation.line
        return [
            Finding(
                code=self.code,
                name=self.name,
                severity=Severity.ERROR if end <= self.error_spread else Severity.WARNING,
                modules=distinct([layer.call.module, hidden[-1].call.module]),
                cause=(
                    "Each layer makes the samples more alike: weights too small for the biases and the activation, or attention "
                    "and averaging without shortcuts."
                ),
                message=(
                    f"From {_named(layer)} on, {counted(first, 'layer')} after the first, all samples look the same: after the last "
                    f"hidden layer they differ by {end:.2g} of their size, after the first by {start:.2g}."
                ),
                evidence={"spread_at_end": end, "spread_at_start": start, "num_layers_before": first},
                lines=() if line is None else (line,),
                remedies=(
                    "Add shortcuts: x + block(x), which carry the difference past each layer.",
                    "Initialise for the activation (He, Xavier), with biases at zero.",
                    "Normalise over the batch (nn.BatchNorm) before the activations.",
                ),
            )
        ]

    def _before_the_output(
        self, recording: Recording, layers: Sequence[Call], spreads: Mapping[int, float]
    ) -> list[Finding]:
        """Where the output layer reads equal rows, made of hidden ones that differ, and the model returns equal rows."""
        root = next(iter(recording.children(-1)), -1)
        hidden = [call for call in layers[:-1] if call.depth in spreads]
        if not hidden or spreads.get(root, 0.0) > self.error_spread:
            return []
        output, last, start = layers[-1], hidden[-1], spreads[hidden[0].depth]
        end = _spread_read(recording, output, 1.0 if root not in spreads else 0.0)
        if end > self.error_spread:
            return []
        if min(start, spreads[last.depth]) < self.least_at_start or not _leads_to(recording, last, output):
            return []
        return [
            Finding(
                code=self.code,
                name=self.name,
                severity=Severity.ERROR,
                modules=distinct([output.module, last.module]),
                cause=(
                    f"What stands between {named(last)} and {named(output)} makes the samples one: an average (or a sum, or a norm) over "
                    "the batch instead of the features or the positions, or an attention over the samples."
                ),
                message=(
                    f"The output layer, {named(output)}, reads the same for all samples, and the model returns the same: its rows differ "
                    f"by {end:.2g} of their size, those of the last hidden layer by {spreads[last.depth]:.2g}."
                ),
                evidence={"spread_at_end": end, "spread_at_start": start, "spread_at_last_hidden": spreads[last.depth]},
                remedies=(
                    "Look at the dimensions that are averaged between the two: the first one holds the samples.",
                    "Add shortcuts: x + block(x), which carry the difference past each layer.",
                ),
            )
        ]


def _named(layer: LayerSpread) -> str:
    return named(layer.call) if layer.operation is None else f"{layer.operation.name} in {named(layer.call)}"


def _spread_read(recording: Recording, layer: Call, of_one_row: float) -> float:
    """Of the rows that a layer reads; `of_one_row` where it reads but one, of which more may be made later.

    The positions of a single sequence may be one on purpose, where the whole of it is repeated.
    """
    read = next(iter(recording.select(SignalKind.INPUT, depth=layer.depth)), None)
    if read is None or (len(read.shape) == 3 and read.shape[0] == 1):
        return 1.0
    found = next((series for series in recording.series(_READ_SERIES) if series.depth == layer.depth), None)
    if found is not None:
        return math.sqrt(found.values[0])
    has_one_row = len(read.shape) < 2 or read.shape[0] == 1
    return of_one_row if has_one_row and not read.stats.is_zero else 1.0


def _leads_to(recording: Recording, layer: Call, output: Call) -> bool:
    """Whether what the output layer reads was made of a layer's output, which weighs in it: its gradient says how much.

    A class token that waits for branches that start at zero, or nearly (ReZero, LayerScale), is still the same for all samples.
    """
    gradient = recording.signal(SignalKind.ACTIVATION_GRADIENT, layer.depth)
    arriving = recording.signal(SignalKind.INPUT_GRADIENT, output.depth)
    if gradient is None or arriving is None or gradient.norm <= _LEAST_WEIGHT * arriving.norm:
        return False
    graph = TensorGraph(recording)
    made = graph.makers(graph.outputs(layer))
    return any(graph.depends(operation, made, 0) for operation in graph.read_by(output))
