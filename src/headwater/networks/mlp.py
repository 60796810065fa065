"""Plain, residual, highway and dense mlps of matched parameters."""

from __future__ import annotations

import torch
from torch import nn

from headwater.networks.activation_functions import activation_module
from headwater.networks.empty_layers import empty_linear
from headwater.networks.input_check import check_input
from headwater.networks.layer_plan import LayerPlan, Role
from headwater.networks.normalisation import norm_module
from headwater.networks.shortcuts import SUMMED, add_branch, branch_alpha, branch_scale
from headwater.networks.specification import NetworkSpec


class MlpLayer(nn.Module):
    """A hidden layer: act(norm(W x)) ("post"), or act(W norm(x)) ("pre"), and what its shortcut makes of that.

    x + scale * alpha * branch(x) for summed shortcuts, T * branch(x) + (1 - T) * x with T = sigmoid(W_T x + b_T) for a highway.
    "post" is the order of `headwater.theory.mean_field.chi_with_layer_norm` and `chi_with_batch_norm`. The first layer changes
    the width, so it has no shortcut, and it reads the raw input, so it has no norm before its weights.

    Args:
        spec: of the network.
        index: of the layer, from 0.
    """

    def __init__(self, spec: NetworkSpec, index: int) -> None:
        super().__init__()
        num_inputs = num_layer_inputs(spec, index)
        is_before, is_first = spec.norm_position == "pre", index == 0
        self.shortcut = "none" if is_first else spec.shortcut
        self.norm_position = spec.norm_position
        self.scale = branch_scale(spec)
        self.linear = empty_linear(num_inputs, spec.width)
        if spec.normalisation != "none" and not (is_before and is_first):
            self.norm = norm_module(spec.normalisation, num_inputs if is_before else spec.width)
        else:
            self.norm = None
        self.activation = activation_module(spec.activation)
        if self.shortcut == "highway":
            self.gate = empty_linear(num_inputs, spec.width)
        self.alpha = None if is_first else branch_alpha(spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer returns, its shortcut included; for "dense" the new features alone."""
        branch = self.branch(x)
        if self.shortcut in SUMMED:
            return add_branch(x, branch, self.scale, self.alpha)
        if self.shortcut == "highway":
            gate = torch.sigmoid(self.gate(x))
            return gate * branch + (1.0 - gate) * x
        return branch

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """The layer without its shortcut."""
        if self.norm is not None and self.norm_position == "pre":
            x = self.norm(x)
        x = self.linear(x)
        if self.norm is not None and self.norm_position == "post":
            x = self.norm(x)
        return self.activation(x)

    def extra_repr(self) -> str:
        """The shortcut and the place of the norm, which are no modules."""
        return f"shortcut={self.shortcut}, norm_position={self.norm_position}"


class Mlp(nn.Module):
    """`depth` hidden layers `layers.0` ... and the linear output layer `head`, which has no norm and no activation.

    Args:
        spec: of family "mlp".
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_inputs = spec.num_inputs
        self.is_dense = spec.shortcut == "dense"
        self.layers = nn.ModuleList(MlpLayer(spec, index) for index in range(spec.depth))
        self.head = empty_linear(num_layer_inputs(spec, spec.depth), spec.num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output, (..., num_outputs), for x of (..., num_inputs); with batch norm one dimension of samples.

        Raises:
            ValueError: the input has another shape.
        """
        check_input(x, ("...", self.num_inputs))
        if self.is_dense:
            return self._forward_dense(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def _forward_dense(self, x: torch.Tensor) -> torch.Tensor:
        returned: list[torch.Tensor] = []
        for layer in self.layers:
            returned.append(layer(x))
            x = torch.cat(returned, dim=-1)
        return self.head(x)


def num_layer_inputs(spec: NetworkSpec, index: int) -> int:
    """Features that hidden layer `index` reads, or the head, whose index is `depth`: all layers' before it if "dense".

    >>> [num_layer_inputs(NetworkSpec(depth=3, width=8, num_inputs=2, shortcut="dense"), index) for index in range(4)]
    [2, 8, 16, 24]
    """
    if index == 0:
        return spec.num_inputs
    return index * spec.width if spec.shortcut == "dense" else spec.width


def mlp_layers(spec: NetworkSpec) -> list[LayerPlan]:
    """The weight layers in forward order, then the gates of a highway.

    >>> [layer.module for layer in mlp_layers(NetworkSpec(depth=2))]
    ['layers.0.linear', 'layers.1.linear', 'head']
    """
    hidden = [
        LayerPlan(
            module=f"layers.{index}.linear",
            num_outputs=spec.width,
            num_inputs=num_layer_inputs(spec, index),
            role=Role.BRANCH if index > 0 and spec.shortcut in SUMMED else Role.PLAIN,
        )
        for index in range(spec.depth)
    ]
    num_features = num_layer_inputs(spec, spec.depth)
    head = LayerPlan(module="head", num_outputs=spec.num_outputs, num_inputs=num_features, role=Role.HEAD)
    gates = [
        LayerPlan(module=f"layers.{index}.gate", num_outputs=spec.width, num_inputs=spec.width, role=Role.GATE)
        for index in range(1, spec.depth)
        if spec.shortcut == "highway"
    ]
    return [*hidden, head, *gates]
