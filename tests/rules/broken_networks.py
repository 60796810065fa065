"""Small networks that are broken in a known way; the truth about each is mathematical."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class Apply(nn.Module):
    """A module that applies a function: an operation of its own name in the report."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Masked(nn.Module):
    """Self-attention in which the first position may attend to nothing."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
        mask[0] = True
        mixed, _ = self.attention(x, x, x, attn_mask=mask)
        return self.head(mixed)


class FunctionalSigmoids(nn.Module):
    """20 layers whose sigmoids are no modules."""

    def __init__(self, num_layers=20, width=32):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return x


class FunctionalSoftmaxOfOneUnit(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return F.softmax(self.head(torch.tanh(self.body(x))), dim=-1)


class FunctionalDeadRectifier(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Linear(width, width)
        self.dead = nn.Linear(width, width)
        self.head = nn.Linear(width, 1)
        nn.init.constant_(self.dead.bias, -100.0)

    def forward(self, x):
        return self.head(F.relu(self.dead(torch.tanh(self.body(x)))))


class DetachedInForward(nn.Module):
    """The cut stands in the model's own forward, between two modules."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, 1)

    def forward(self, x):
        return self.second(self.first(x).detach())


class NoGradEncoder(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        with torch.no_grad():
            hidden = self.encoder(x)
        return self.head(hidden)


class ArgmaxInTheMiddle(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.choose = Apply(lambda x: x.argmax(-1))
        self.embed = nn.Embedding(width, width)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.embed(self.choose(self.first(x))))


class UnusedBranch(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.used = nn.Linear(width, 1)
        self.forgotten = nn.Linear(width, 1)
        self.ignored = nn.Linear(width, 1)

    def forward(self, x):
        self.ignored(x)
        return self.used(x)


class ExplodingShortcuts(nn.Module):
    """x + relu(Wx) with weights three times too large."""

    def __init__(self, num_layers=12, width=64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.head = nn.Linear(width, 1)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)
            with torch.no_grad():
                layer.weight.mul_(3.0)

    def forward(self, x):
        for layer in self.layers:
            x = x + F.relu(layer(x))
        return self.head(x)


def plain(activation, num_layers, width, init=None, num_outputs=10):
    """Linear layers with an activation after each but the last."""
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        layers += [nn.Linear(width, width), activation()]
    model = nn.Sequential(*layers, nn.Linear(width, num_outputs))
    if init is not None:
        initialize(model, init)
    return model


def initialize(model, init):
    """The same initialiser for every Linear, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            init(module.weight)
            nn.init.zeros_(module.bias)


def with_bias(layer, value, units=slice(None)):
    with torch.no_grad():
        layer.bias[units] = value
    return layer


def zeroed(layer):
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def acos_of_ones(x):
    ones = x * 0.0 + 1.0
    return x + torch.acos(ones)


def thrice_exponential(x):
    return torch.exp(torch.exp(torch.exp(3.0 * x)))


def gaussian(*shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


def he(weight):
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def huge(weight):
    return nn.init.normal_(weight, std=4.0 / math.sqrt(weight.shape[1]))
