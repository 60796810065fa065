"""Models and inputs that several suites use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def batch() -> Tensor:
    return torch.randn(5, 4)


def batch_with_grad() -> Tensor:
    return torch.randn(5, 4, requires_grad=True)


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8)


class Lambda(nn.Module):
    """A module list whose forward is given as a function."""

    def __init__(self, forward: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = forward

    def forward(self, *args: Any) -> Any:
        return self.function(self.layers, *args)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
