"""Recordings of an optimiser's next step, built by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.recording import Combine, Context, Recording, RecordingBuilder, SignalKind, TensorStats
from tests.rules.recordings import of_norm

LOSS = Context(cotangent="loss", loss=1.0, optimizer="SGD")
NUM_WEIGHTS = 100


@dataclass(frozen=True)
class Matrix:
    """One layer of ten by ten weights.

    Args:
        series: further numbers of its weight by name.
        weight: size of each weight.
        update: size of each weight's step.
        gain: norm of the gradient at its output, that at the model's output being one.
        type: class name of its module.
        dtype: of the weight.
        shape: of the weight.
    """

    series: dict[str, list[float]] = field(default_factory=dict)
    weight: float = 0.1
    update: float = 1e-4
    gain: float = 1.0
    type: str = "Linear"
    dtype: str = "float32"
    shape: tuple[int, ...] = (10, 10)


def lost(rounded=0, shrunk=0, *, rate=0.1, full_rate=None, exact=True) -> dict[str, list[float]]:
    """The series of 100 weights, of which so many are rounded away, and eps shrinks so many by three decades."""
    pad = [0.0] * 7
    series = {
        "num_with_gradient": [NUM_WEIGHTS - shrunk, 0.0, 0.0, shrunk, *pad],
        "num_unchanged": [rounded, 0.0, 0.0, 0.0, *pad],
        "learning_rate": [rate],
        "full_learning_rate": [rate if full_rate is None else full_rate],
    }
    if not exact:
        return series
    exact_series = {"num_lost_to_rounding": [rounded], "num_lost_at_full_rate": [rounded], "epsilon": [1e-8]}
    return {**series, **exact_series}


def stepped(*matrices: Matrix, slope: float = 1.0, context: Context = LOSS) -> Recording:
    """A chain of the matrices; the L1 norm of the loss gradient is `slope`."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    top = builder.add_call(root)
    for index, matrix in enumerate(matrices):
        module = builder.add_module(str(index), matrix.type, parent=root)
        depth = builder.add_call(module, parent=top, input_requires_grad=index > 0)
        builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=depth)
        builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, of_norm(slope * matrix.gain), depth=depth)
        builder.add_parameter(module, f"{index}.weight", shape=matrix.shape, dtype=matrix.dtype)
        for kind, size in ((SignalKind.WEIGHT, matrix.weight), (SignalKind.UPDATE, matrix.update)):
            stats = TensorStats.from_values([size] * NUM_WEIGHTS)
            builder.add_signal(module, kind, stats, depth=depth, item="weight", shape=matrix.shape, dtype=matrix.dtype)
        gradient = of_norm(slope * matrix.gain, NUM_WEIGHTS)
        builder.add_signal(module, SignalKind.WEIGHT_GRADIENT, gradient, depth=depth, item="weight")
        for name, values in matrix.series.items():
            builder.add_series(name, values, module=module, item="weight", combine=Combine.SUM)
    builder.add_signal(root, SignalKind.ACTIVATION, of_norm(1.0), depth=top)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, TensorStats.from_values([slope / 4] * 4), depth=top)
    return builder.build(context)
