"""The norms of a specification as PyTorch modules, with the eps of LayerNorm and BatchNorm for all of them."""

from __future__ import annotations

from torch import nn

_EPS = 1e-5


def norm_module(name: str, num_features: int) -> nn.Module:
    """A new norm over the last dimension ("layer", "rms"), over the batch ("batch"), or nn.Identity ("none").

    >>> norm_module("rms", 3)
    RMSNorm((3,), eps=1e-05, elementwise_affine=True)
    """
    if name == "batch":
        return nn.BatchNorm1d(num_features, eps=_EPS)
    if name == "layer":
        return nn.LayerNorm(num_features, eps=_EPS)
    return nn.RMSNorm(num_features, eps=_EPS) if name == "rms" else nn.Identity()
