"""The notebook's network: Linear + GELU layers, with or without shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import nn


class DeepNeuralNetwork(nn.Module):
    """A stack of Linear + GELU layers, each with a shortcut around it where input and output shapes match.

    Under one seed the variants with and without shortcuts have the same weights: shortcuts add none.

    Args:
        layer_sizes: width of the input, of every hidden layer and of the output; n + 1 numbers make n layers.
        use_shortcut: whether a layer computes `x + layer(x)` instead of `layer(x)` where both shapes are the same.

    Raises:
        ValueError: `layer_sizes` is not two or more positive integers.

    >>> model = DeepNeuralNetwork([3, 3, 3, 1], use_shortcut=True)
    >>> model(torch.tensor([[1.0, 0.0, -1.0]])).shape
    torch.Size([1, 1])
    """

    def __init__(self, layer_sizes: Sequence[int], use_shortcut: bool) -> None:
        super().__init__()
        _check_layer_sizes(layer_sizes)
        self.use_shortcut = use_shortcut
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(num_inputs, num_outputs), nn.GELU())
            for num_inputs, num_outputs in pairwise(layer_sizes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the last layer.

        Args:
            x: shape (..., layer_sizes[0]).

        Raises:
            ValueError: the input's last dimension is not `layer_sizes[0]` wide, or its dtype is not floating point.
        """
        self._check_input(x)
        for layer in self.layers:
            layer_output = layer(x)
            x = x + layer_output if self.use_shortcut and x.shape == layer_output.shape else layer_output
        return x

    def _check_input(self, x: torch.Tensor) -> None:
        num_inputs = self.get_submodule("layers.0.0").in_features
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            arrived = f"one of {x.dtype}" if isinstance(x, torch.Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"expected a floating-point tensor of shape (..., {num_inputs}) as input, got {arrived}")
        if x.ndim == 0 or x.shape[-1] != num_inputs:
            raise ValueError(
                f"expected an input of shape (..., {num_inputs}), as layer_sizes begins with {num_inputs},"
                f" got {tuple(x.shape)}"
            )


def _check_layer_sizes(layer_sizes: Sequence[int]) -> None:
    is_sequence = isinstance(layer_sizes, Sequence) and not isinstance(layer_sizes, str | bytes)
    if is_sequence and len(layer_sizes) >= 2 and all(_is_width(size) for size in layer_sizes):
        return
    raise ValueError(
        "expected layer_sizes to be two or more positive integers (the widths of the input, the hidden layers"
        f" and the output, as in [3, 3, 1]), got {layer_sizes!r}"
    )


def _is_width(size: object) -> bool:
    return isinstance(size, Integral) and not isinstance(size, bool) and int(size) > 0
