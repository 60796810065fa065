"""A recording with one of everything."""

from __future__ import annotations

import math
from dataclasses import replace

from headwater.recording import (
    Combine,
    Context,
    ExponentHistogram,
    Recording,
    RecordingBuilder,
    SignalKind,
    SourceLine,
    TensorStats,
)


def sample() -> Recording:
    """One of everything."""
    builder = RecordingBuilder()
    builder.add_module("", "Net", is_leaf=False)
    builder.add_module("relu", "ReLU", parent=0, config="inplace=True")
    builder.add_call(0)
    builder.add_call(1, parent=0)
    stats = replace(TensorStats.from_values([0.1, -3.0]), exponents=ExponentHistogram(-4, (1, 0, 0, 0, 0, 1)))
    builder.add_signal(1, SignalKind.ACTIVATION, stats, depth=1, shape=(1, 2))
    builder.add_signal(1, SignalKind.WEIGHT, TensorStats.from_values([1e-320]), depth=1, item="weight")
    builder.add_parameter(1, "relu.weight")
    builder.add_units(1, 4, [0.0, -1.0], [1.0, 2.0])
    line = SourceLine("model.py", 7, "x = torch.relu(self.layer(x))")
    builder.add_operation("F.linear", line=line, depth=0, gradient_norm=0.5)
    builder.add_operation("torch.relu", line=line, depth=1, gradient_norm=math.nan, is_finite=False)
    builder.add_operation("Tensor.detach", line=SourceLine("<ipython-input-1>", 2, ""), is_cut=True)
    builder.add_operation_edge(1, 0, 0.25)
    builder.add_made_by(0, 1)
    builder.add_series("time_step_norms", [1.0, 0.5], module=1, depth=1, item="0", combine=Combine.MAXIMUM)
    return builder.build(
        Context(cotangent="loss", loss=0.1, optimizer="AdamW", versions={"torch": "2.13.0"}, notes=("a note",))
    )
