"""HW204: what the last layer reads is the same for every sample, though the inputs differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.gradient_path import leaf_calls
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Recording
from headwater.rules.wording import counted, distinct, named

_SERIES = "relative_spread"
_LEAST_LAYERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCollapse:
    """HW204: the representations of all samples (of all positions, in a sequence) have become one, up to rounding.

    Judged is the relative spread, the root of the share of an activation's energy that differs between rows, after the last
    hidden layer, beside that after the first. In the ordered phase of mean-field theory correlations tend to one exponentially
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
        owners = {parameter.module for parameter in recording.parameters}
        layers = [call for call in leaf_calls(recording) if call.module in owners and call.depth in spreads]
        if len(layers) < _LEAST_LAYERS:
            return []
        hidden = layers[:-1]
        start, end = spreads[hidden[0].depth], spreads[hidden[-1].depth]
        if end > self.warning_spread or start < self.least_at_start:
            return []
        first = next(i for i in range(len(hidden)) if all(spreads[c.depth] <= self.warning_spread for c in hidden[i:]))
        layer = hidden[first]
        return [
            Finding(
                code=self.code,
                name=self.name,
                severity=Severity.ERROR if end <= self.error_spread else Severity.WARNING,
                modules=distinct([layer.module, hidden[-1].module]),
                cause=(
                    "Each layer makes the samples more alike: weights too small for the biases and the activation, or attention "
                    "and averaging without shortcuts."
                ),
                message=(
                    f"From {named(layer)} on, {counted(first, 'layer')} after the first, all samples look the same: after the last "
                    f"hidden layer they differ by {end:.2g} of their size, after the first by {start:.2g}."
                ),
                evidence={"spread_at_end": end, "spread_at_start": start, "num_layers_before": first},
                remedies=(
                    "Add shortcuts: x + block(x), which carry the difference past each layer.",
                    "Initialise for the activation (He, Xavier), with biases at zero.",
                    "Normalise over the batch (nn.BatchNorm) before the activations.",
                ),
            )
        ]
