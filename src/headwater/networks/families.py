"""The module, the weight layers and the input of each family."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from headwater.networks.conv import ConvNet, conv_layers
from headwater.networks.layer_plan import LayerPlan
from headwater.networks.mlp import Mlp, mlp_layers
from headwater.networks.recurrent import RecurrentNet, recurrent_layers
from headwater.networks.specification import NetworkSpec
from headwater.networks.transformer import Transformer, transformer_layers

_NETWORKS: dict[str, Callable[[NetworkSpec], nn.Module]] = {
    "mlp": Mlp,
    "conv": ConvNet,
    "transformer": Transformer,
    "rnn": RecurrentNet,
    "gru": RecurrentNet,
    "lstm": RecurrentNet,
}
_LAYERS: dict[str, Callable[[NetworkSpec], list[LayerPlan]]] = {
    "mlp": mlp_layers,
    "conv": conv_layers,
    "transformer": transformer_layers,
    "rnn": recurrent_layers,
    "gru": recurrent_layers,
    "lstm": recurrent_layers,
}
_IMAGE_SIZE = 8  # scikit-learn's digits
_NUM_POSITIONS = 16


def empty_network(spec: NetworkSpec) -> nn.Module:
    """The network with uninitialised weights and biases; norms and branch scalars have what they start with.

    >>> [name for name, _ in empty_network(NetworkSpec(depth=1)).named_parameters()]
    ['layers.0.linear.weight', 'layers.0.linear.bias', 'head.weight', 'head.bias']
    """
    return _NETWORKS[spec.family](spec)


def weight_layers(spec: NetworkSpec) -> list[LayerPlan]:
    """What has weights that are drawn, in forward order; gates come last, so that the others' are the same without them.

    >>> [layer.fan_in for layer in weight_layers(NetworkSpec(depth=1, num_inputs=2, width=8))]
    [2, 8]
    """
    return _LAYERS[spec.family](spec)


def input_shape(spec: NetworkSpec) -> tuple[int, ...]:
    """Shape of one sample, without the batch: images of 8 x 8, sequences of 16 positions, `depth` time steps.

    >>> input_shape(NetworkSpec(num_inputs=2)), input_shape(NetworkSpec(family="conv", depth=10, num_inputs=1))
    ((2,), (1, 8, 8))
    """
    if spec.family == "mlp":
        return (spec.num_inputs,)
    if spec.family == "conv":
        return (spec.num_inputs, _IMAGE_SIZE, _IMAGE_SIZE)
    num_steps = _NUM_POSITIONS if spec.family == "transformer" else spec.depth
    return (num_steps, spec.num_inputs)
