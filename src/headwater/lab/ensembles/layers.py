"""What is measured of each family: which module's output, and which weight's gradient."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.networks.families import weight_layers
from headwater.networks.layer_plan import Role
from headwater.networks.specification import NetworkSpec

RECURRENT = ("rnn", "gru", "lstm")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLayer:
    """One column of the measurements.

    Args:
        module: whose output is measured; the column's name.
        weight: the parameter whose gradient is measured.
    """

    module: str
    weight: str


def measured_layers(spec: NetworkSpec) -> list[MeasuredLayer]:
    """The weight layers in forward order, gates left out, each with its norm, activation and shortcut as far as they are its own.

    A layer's output is that of the last module that belongs to it alone: its block, where it is the last of the block's layers; its
    activation, where one follows; else its own. Attention's last layer so has the branch's output, not the sum. Of a recurrent
    network each time step is a layer ("steps.0", ...): its states (an LSTM's h and c), and its share of the gradient of the cell's
    weight of inputs. (That of the weight of states is the same for each step, times another vector, which for the first step is 0.)

    >>> [layer.module for layer in measured_layers(NetworkSpec(depth=1))]
    ['layers.0', 'head']
    >>> [layer.module for layer in measured_layers(NetworkSpec(family="conv", depth=10))][:4]
    ['layers.0', 'layers.1.conv1', 'layers.1', 'layers.2.conv1']
    """
    if spec.family in RECURRENT:
        steps = [
            MeasuredLayer(module=f"steps.{step}", weight=f"steps.{step}.cell.input.weight")
            for step in range(spec.depth)
        ]
        return [*steps, MeasuredLayer(module="head", weight="head.weight")]
    names = [layer.module for layer in weight_layers(spec) if layer.role is not Role.GATE]
    return [MeasuredLayer(module=_last_module(spec, name), weight=f"{name}.weight") for name in names]


def _last_module(spec: NetworkSpec, name: str) -> str:
    """The last module that belongs to a weight layer."""
    block, _, own = name.rpartition(".")
    if spec.family == "transformer":
        return {
            "linear1": f"{block}.activation",
            "linear2": block.removesuffix(".feed_forward"),
            "out": f"{block}_norm" if spec.norm_position == "post" else name,
        }.get(own, name)
    if own == "conv1" and spec.norm_position == "post":
        return f"{block}.activation1"
    return block if own in ("linear", "conv", "conv2") else name
