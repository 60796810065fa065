"""Random weights in float64, and norms of gradients by plain autograd: what the simulations are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_weight(generator: torch.Generator, num_outputs: int, num_inputs: int, variance: float = 1.0) -> Tensor:
    """N(0, variance / num_inputs), of shape (num_outputs, num_inputs).

    >>> gaussian_weight(torch.Generator().manual_seed(0), 2, 3).dtype
    torch.float64
    """
    return normal(generator, num_outputs, num_inputs) * (variance / num_inputs) ** 0.5


def orthogonal_weight(generator: torch.Generator, width: int, variance: float = 1.0) -> Tensor:
    """sqrt(variance) times a uniformly random orthogonal matrix.

    >>> weight = orthogonal_weight(torch.Generator().manual_seed(0), 3, variance=2.0)
    >>> torch.allclose(weight @ weight.T, 2.0 * torch.eye(3, dtype=torch.float64))
    True
    """
    q, r = torch.linalg.qr(normal(generator, width, width))
    return q * r.diagonal().sign() * variance**0.5


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """N(0, 1) in float64.

    >>> normal(torch.Generator().manual_seed(0), 2, 3).shape
    torch.Size([2, 3])
    """
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def squared_gradient_norms(output: Tensor, places: Sequence[Tensor], cotangent: Tensor) -> list[float]:
    """||dL/dh||² at each place, for a cotangent at the output.

    >>> x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    >>> squared_gradient_norms(3.0 * x, [x], torch.ones(2, dtype=torch.float64))
    [18.0]
    """
    return [float(gradient.square().sum()) for gradient in torch.autograd.grad(output, places, cotangent)]
