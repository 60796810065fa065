"""The module and the weight layers of each family."""

from __future__ import annotations

from torch import nn

from headwater.networks.layer_plan import LayerPlan
from headwater.networks.mlp import Mlp, mlp_layers
from headwater.networks.specification import NetworkSpec


def empty_network(spec: NetworkSpec) -> nn.Module:
    """The network with uninitialised weights and biases; norms and branch scalars have what they start with.

    >>> [name for name, _ in empty_network(NetworkSpec(depth=1)).named_parameters()]
    ['layers.0.linear.weight', 'layers.0.linear.bias', 'head.weight', 'head.bias']
    """
    return Mlp(spec)


def weight_layers(spec: NetworkSpec) -> list[LayerPlan]:
    """What has weights that are drawn, in forward order; gates come last, so that the others' are the same without them.

    >>> [layer.fan_in for layer in weight_layers(NetworkSpec(depth=1, num_inputs=2, width=8))]
    [2, 8]
    """
    return mlp_layers(spec)


def input_shape(spec: NetworkSpec) -> tuple[int, ...]:
    """Of one sample, without the batch.

    >>> input_shape(NetworkSpec(num_inputs=2))
    (2,)
    """
    return (spec.num_inputs,)
