"""Layers whose parameters are not initialised yet, so that no random numbers are drawn for nothing, and none globally."""

from __future__ import annotations

from torch import nn


class _EmptyLinear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing."""


class _EmptyConv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Nothing."""


def empty_linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A linear layer with uninitialised parameters.

    >>> empty_linear(2, 3)
    Linear(in_features=2, out_features=3, bias=True)
    """
    layer = _EmptyLinear(num_inputs, num_outputs)
    # A plain nn.Linear from here on. torch.nn.utils.skip_init does it by way of the meta device, ten times as slowly.
    layer.__class__ = nn.Linear  # type: ignore[assignment]
    return layer


def empty_conv(num_inputs: int, num_outputs: int, *, stride: int = 1, has_bias: bool = True) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps an image's size (divided by the stride), with uninitialised parameters.

    >>> empty_conv(2, 3).weight.shape
    torch.Size([3, 2, 3, 3])
    """
    layer = _EmptyConv2d(num_inputs, num_outputs, 3, stride=stride, padding=1, bias=has_bias)
    layer.__class__ = nn.Conv2d  # type: ignore[assignment]
    return layer
