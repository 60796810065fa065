"""The activation functions of a specification as PyTorch modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Erf(nn.Module):
    """The error function of every element, which PyTorch has no module for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """erf(x)."""
        return torch.erf(x)


_MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "erf": Erf,
    "hardtanh": nn.Hardtanh,
}


def activation_module(name: str) -> nn.Module:
    """A new module for one of `headwater.networks.ACTIVATIONS`.

    >>> activation_module("gelu_tanh")
    GELU(approximate='tanh')
    """
    return _MODULES[name]()
