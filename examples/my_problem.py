"""A problem to start from: put your own model and one batch in here, then run

    headwater diagnose examples/my_problem.py:problem

This one is a classifier of 12 sigmoid layers for points on two circles. It does not learn; the report says why.
"""

import torch
from torch import nn

import headwater as hw


def problem() -> hw.Problem:
    """One batch, the model, and the loss that it is trained with."""
    inputs, targets = two_circles(256)
    return hw.Problem(model=make_model(), inputs=inputs, targets=targets, loss=nn.CrossEntropyLoss())


def make_model(num_layers: int = 12, width: int = 32) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(2, width), nn.Sigmoid()]
    for _ in range(num_layers - 2):
        layers += [nn.Linear(width, width), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def two_circles(num_points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on an inner and an outer circle, with the number of their circle."""
    labels = torch.arange(num_points) % 2
    angles = 2 * torch.pi * torch.rand(num_points)
    points = torch.stack([angles.cos(), angles.sin()], dim=1) * (0.5 + 0.5 * labels)[:, None]
    return points + 0.05 * torch.randn(num_points, 2), labels
