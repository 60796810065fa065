"""Networks that the comparisons' tests share; at the top of a module, so that processes can be sent them."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from headwater.networks import DeepNeuralNetwork

SIZES = (3, 3, 3, 3, 3, 1)
NOTEBOOK = {
    "plain": partial(DeepNeuralNetwork, SIZES, False),
    "shortcut": partial(DeepNeuralNetwork, SIZES, True),
}
SAMPLE = torch.tensor([[1.0, 0.0, -1.0]])
ZERO = torch.zeros(1, 1)


def mlp(depth: int, activation: type[nn.Module] = nn.Tanh, width: int = 6) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def inputs(num_samples: int = 8, width: int = 6) -> torch.Tensor:
    return torch.randn(num_samples, width, generator=torch.Generator().manual_seed(7))


def classes(num_samples: int = 8) -> torch.Tensor:
    return torch.randint(0, 2, (num_samples,), generator=torch.Generator().manual_seed(8))
