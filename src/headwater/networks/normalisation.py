"""The norms of a specification as PyTorch modules, with the eps of LayerNorm and BatchNorm for all of them."""

from __future__ import annotations

import torch
from torch import nn

_EPS = 1e-5


def norm_module(name: str, num_features: int) -> nn.Module:
    """A new norm over the last dimension ("layer", "rms"), over the batch ("batch"), or nn.Identity ("none").

    >>> norm_module("rms", 3).normalized_shape
    (3,)
    """
    if name == "batch":
        return nn.BatchNorm1d(num_features, eps=_EPS)
    if name == "layer":
        return nn.LayerNorm(num_features, eps=_EPS)
    return nn.RMSNorm(num_features, eps=_EPS) if name == "rms" else nn.Identity()


class ImageRMSNorm(nn.Module):
    """x / sqrt(mean of x² over channels and positions + eps), times a weight a channel: GroupNorm(1, ...) without a mean.

    Args:
        num_channels: of the images.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images of (batch, channels, height, width), each of RMS 1 times the weights."""
        scale = torch.rsqrt(x.square().mean(dim=(1, 2, 3), keepdim=True) + _EPS)
        return x * scale * self.weight[:, None, None]


def image_norm_module(name: str, num_channels: int) -> nn.Module:
    """A new norm of images: over batch and positions ("batch"), or over a sample's channels and positions ("layer", "rms").

    >>> image_norm_module("layer", 8).num_groups
    1
    """
    if name == "batch":
        return nn.BatchNorm2d(num_channels, eps=_EPS)
    if name == "layer":
        return nn.GroupNorm(1, num_channels, eps=_EPS)
    return ImageRMSNorm(num_channels) if name == "rms" else nn.Identity()
