"""Recordings built by hand, whose truth is known because it was written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headwater.recording import Context, Recording, RecordingBuilder, Signal, SignalKind, TensorStats

LOSS = Context(cotangent="loss", loss=1.0)


@dataclass(frozen=True)
class Step:
    """One leaf call of a chain.

    Args:
        type: class name of its module.
        gain: norm(dL/d input) / norm(dL/d output).
        trains: it owns a weight that gets a gradient.
        numel: size of its output.
        output: statistics of its output, where they matter.
        weight: statistics of its weight.
        weight_gradient: of its weight gradient.
    """

    type: str = "Linear"
    gain: float = 1.0
    trains: bool = True
    numel: int = 4
    output: TensorStats = field(default_factory=lambda: of_norm(1.0))
    weight: TensorStats = field(default_factory=lambda: of_norm(1.0))
    weight_gradient: TensorStats = field(default_factory=lambda: of_norm(1.0))


def of_norm(norm: float, numel: int = 4) -> TensorStats:
    """A tensor of equal elements with this norm."""
    return TensorStats.from_values([norm / math.sqrt(numel)] * numel)


def activation(name: str, gain: float = 1.0) -> Step:
    return Step(type=name, gain=gain, trains=False)


def chain(steps: Sequence[Step], *, cotangent: float = 1.0, context: Context = LOSS) -> Recording:
    """A Sequential of the steps, with the gradients that their gains make of a cotangent of this norm."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    top = builder.add_call(root)
    gradients = [cotangent]
    for step in reversed(steps):
        gradients.append(gradients[-1] * step.gain)
    gradients.reverse()
    source = builder.add_signal(root, SignalKind.INPUT, of_norm(1.0), depth=top)
    for index, step in enumerate(steps):
        source = _add_step(builder, index, step, root, top, source, (gradients[index], gradients[index + 1]))
    builder.add_signal(root, SignalKind.ACTIVATION, steps[-1].output, depth=top, tensor=source)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(cotangent), depth=top, tensor=source)
    return builder.build(context)


def _add_step(
    builder: RecordingBuilder, index: int, step: Step, root: int, top: int, source: int, norms: tuple[float, float]
) -> int:
    module = builder.add_module(str(index), step.type, parent=root)
    depth = builder.add_call(module, parent=top, input_requires_grad=index > 0)
    builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=depth, tensor=source)
    if index > 0:
        builder.add_signal(module, SignalKind.INPUT_GRADIENT, of_norm(norms[0]), depth=depth, tensor=source)
    made = builder.add_signal(module, SignalKind.ACTIVATION, step.output, depth=depth, shape=(1, step.output.numel))
    builder.add_signal(
        module,
        SignalKind.ACTIVATION_GRADIENT,
        of_norm(norms[1]),
        depth=depth,
        tensor=made,
        shape=(1, step.output.numel),
    )
    if step.trains:
        builder.add_parameter(module, f"{index}.weight")
        for kind, stats in ((SignalKind.WEIGHT, step.weight), (SignalKind.WEIGHT_GRADIENT, step.weight_gradient)):
            builder.add_signal(module, kind, stats, depth=depth, item="weight")
    return made


def layers(num_layers: int, name: str, gain: float, weight_gain: float = 1.0) -> list[Step]:
    """`num_layers` weighted layers with an activation after each but the last."""
    steps: list[Step] = []
    for _ in range(num_layers - 1):
        steps += [Step(gain=weight_gain), activation(name, gain)]
    return [*steps, Step(gain=weight_gain)]


def with_scaled_gradients(recording: Recording, exponent: int) -> Recording:
    """The same passes with the loss multiplied by 2**exponent."""
    return changed(recording, lambda s: s.stats.scaled_by_power_of_two(exponent) if "gradient" in s.kind else s.stats)


def changed(recording: Recording, stats_of) -> Recording:
    """The same recording, with other statistics: `stats_of(signal)`."""
    builder = RecordingBuilder()
    index_of: dict[str, int] = {}
    for module in recording.modules:
        parent = -1 if module.parent is None else index_of[module.parent]
        index_of[module.name] = builder.add_module(
            module.name, module.type, parent=parent, training=module.training, is_leaf=module.is_leaf
        )
    for call in recording.calls:
        builder.add_call(
            index_of[call.module],
            parent=call.parent,
            grad_enabled=call.grad_enabled,
            input_requires_grad=call.input_requires_grad,
            output_requires_grad=call.output_requires_grad,
            output_is_floating=call.output_is_floating,
            finished=call.finished,
        )
    for signal in recording:
        _add_again(builder, index_of[signal.module], signal, stats_of(signal))
    for p in recording.parameters:
        flags = {"requires_grad": p.requires_grad, "received_gradient": p.received_gradient}
        builder.add_parameter(index_of[p.module], p.name, shape=p.shape, dtype=p.dtype, **flags)
    for units in recording.units:
        builder.add_units(units.depth, units.num_samples, units.minimum, units.maximum)
    return builder.build(recording.context)


def _add_again(builder: RecordingBuilder, module: int, signal: Signal, stats: TensorStats) -> None:
    builder.add_signal(
        module,
        signal.kind,
        stats,
        depth=signal.depth,
        item=signal.item,
        shape=signal.shape,
        dtype=signal.dtype,
        tensor=signal.tensor,
    )
