"""Models with one line that makes the gradient 1e-3 of what it was; the line is marked by the comment "planted"."""

from __future__ import annotations

import inspect

import torch
from torch import nn


class PlainModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = x * 1e-3  # planted
        return self.second(x)


def shrink(x):
    return torch.mul(x, 1e-3)  # planted


class FunctionalCode(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(8, 8) / 8**0.5) for _ in range(3))

    def forward(self, x):
        for weight in self.weights:
            x = torch.relu(x @ weight)
        return shrink(x)


class NestedInLibraryModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Tanh(), nn.Hardtanh(-1e-4, 1e-4)))
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        x = self.body(x)  # planted
        return self.head(x)


class InALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            x = x / 2.0 - x / 2.2  # planted
        return x


class InALambda(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 1)
        self.scale = lambda x: x * 1e-3  # planted

    def forward(self, x):
        return self.second(self.scale(self.first(x)))


class Shrink(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1e-3 * gradient


class ShrinkingModule(nn.Module):
    def forward(self, x):
        return Shrink.apply(x)


class CustomFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shrink, self.second = nn.Linear(8, 8), ShrinkingModule(), nn.Linear(8, 1)

    def forward(self, x):
        x = self.first(x)
        x = self.shrink(x)  # planted
        return self.second(x)


ALL = (PlainModule, FunctionalCode, NestedInLibraryModules, InALoop, InALambda, CustomFunction)


def planted_line(place) -> int:
    """Number of the marked line in the source of a class or function."""
    lines, first = inspect.getsourcelines(place)
    return first + next(index for index, line in enumerate(lines) if "# planted" in line)
