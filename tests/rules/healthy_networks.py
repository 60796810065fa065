"""Healthy networks that look broken to a careless rule: nothing about them deserves a warning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class LoraLinear(nn.Module):
    """A frozen layer with a trainable low-rank update whose second factor starts at zero (Hu et al. 2021)."""

    def __init__(self, width, *, update_first=False, rank=2):
        super().__init__()
        self.base = nn.Linear(width, width).requires_grad_(False)
        self.lora_a = nn.Linear(width, rank, bias=False)
        self.lora_b = nn.Linear(rank, width, bias=False)
        self.update_first = update_first
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x):
        if self.update_first:
            return self.lora_b(self.lora_a(x)) + self.base(x)
        return self.base(x) + self.lora_b(self.lora_a(x))


class Lora(nn.Module):
    def __init__(self, width=16, num_layers=4, *, update_first=False):
        super().__init__()
        self.layers = nn.ModuleList(LoraLinear(width, update_first=update_first) for _ in range(num_layers))
        self.head = nn.Linear(width, 1).requires_grad_(False)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class Block(nn.Module):
    """x + scale * branch(x); the scale is ReZero's, LayerScale's or none."""

    def __init__(self, width, scale=None):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.scale = None if scale is None else nn.Parameter(torch.full((width,), float(scale)))

    def forward(self, x):
        out = self.branch(self.norm(x))
        return x + (out if self.scale is None else self.scale * out)


def residual(num_blocks=8, width=16, scale=None):
    return nn.Sequential(
        nn.Linear(width, width), *(Block(width, scale) for _ in range(num_blocks)), nn.Linear(width, 4)
    )


def fixup(num_blocks=8, width=16):
    """The last layer of each branch and the classifier start at zero (Zhang et al. 2019)."""
    model = residual(num_blocks, width)
    for block in model[1:-1]:
        nn.init.zeros_(block.branch[2].weight)
        nn.init.zeros_(block.branch[2].bias)
        with torch.no_grad():
            block.branch[0].weight.mul_(num_blocks**-0.5)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return model


class ScaledByOneNumber(nn.Module):
    """x + scale * branch(x) with a scale of one number that starts at zero (SkipInit, De & Smith 2020)."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + self.scale * self.branch(x)


def skip_init(num_blocks=6, width=16):
    branches = (nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(num_blocks))
    return nn.Sequential(nn.Linear(width, width), *map(ScaledByOneNumber, branches), nn.Linear(width, 4))


class LoraInReZero(nn.Module):
    """LoRA's zero inside of ReZero's: the second ends only after the first."""

    def __init__(self, width=16, num_blocks=4):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            ScaledByOneNumber(nn.Sequential(LoraLinear(width), nn.Tanh())) for _ in range(num_blocks)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def residual_of_zeros(num_blocks=8, width=16):
    """Not healthy: ReZero's scale and the branch's last layer are both zero, and each waits for the other for ever."""
    model = residual(num_blocks, width, scale=0.0)
    for block in model[1:-1]:
        nn.init.zeros_(block.branch[2].weight)
        nn.init.zeros_(block.branch[2].bias)
    return model


class ZeroGammaBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def zero_gamma(channels=8, num_blocks=3):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *(ZeroGammaBlock(channels) for _ in range(num_blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 4),
    )


class AdaptiveNormBlock(nn.Module):
    """adaLN-Zero (Peebles & Xie 2023): shift, scale and gate come from a layer that starts at zero."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x, condition):
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class AdaptiveNormZero(nn.Module):
    def __init__(self, width=16, num_blocks=4, *, zero_head=False):
        super().__init__()
        self.condition = nn.Linear(4, width)
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList(AdaptiveNormBlock(width) for _ in range(num_blocks))
        self.head = nn.Linear(width, width)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x, labels):
        condition = self.condition(labels)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.head(x)


class SparseExperts(nn.Module):
    """Each sample goes to one expert; the others are not called."""

    def __init__(self, width=8, num_experts=4):
        super().__init__()
        self.router = nn.Linear(width, num_experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(num_experts)
        )
        self.head = nn.Linear(width, 1)
        with torch.no_grad():
            self.router.bias[0] = 3.0
            self.router.weight.mul_(0.1)

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for index in chosen.unique().tolist():
            rows = chosen == index
            out[rows] = weights[rows, None] * self.experts[index](x[rows])
        return self.head(x + out)


class DenseExperts(SparseExperts):
    """Every expert runs, and all but the chosen one are multiplied by zero."""

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).max(-1)
        gates = F.one_hot(chosen, len(self.experts)) * weights[:, None]
        out = sum(gates[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return self.head(x + out)


class EmptyExperts(SparseExperts):
    """Every expert runs, on no samples if none was routed to it."""

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero(as_tuple=True)[0]
            out = out.index_add(0, rows, weights[rows, None] * expert(x[rows]))
        return self.head(x + out)


class DroppedBranches(nn.Module):
    """Stochastic depth: some branches are multiplied by zero in this pass."""

    class DropPath(nn.Module):
        def __init__(self, *, drops):
            super().__init__()
            self.drops = drops

        def forward(self, x):
            return x * (0.0 if self.drops else 1.0)

    def __init__(self, width=8, num_blocks=6):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Tanh(), self.DropPath(drops=i % 2 == 0))
            for i in range(num_blocks)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


class CausalAttention(nn.Module):
    """Scores are masked with -inf by a module of its own; no row is masked fully."""

    class Mask(nn.Module):
        def forward(self, scores):
            size = scores.shape[-1]
            future = torch.triu(torch.ones(size, size, dtype=torch.bool), diagonal=1)
            return scores.masked_fill(future, -math.inf)

    def __init__(self, width=8):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.mask = self.Mask()
        self.softmax = nn.Softmax(dim=-1)
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        return self.head(self.softmax(self.mask(scores)) @ self.value(x))


class MaskedActions(nn.Module):
    """A policy whose forbidden actions get the logit -inf."""

    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))

    def forward(self, x):
        return self.body(x).masked_fill(torch.tensor([False, False, True, False]), -math.inf)


class AttentionOverOneKey(nn.Module):
    """One token: the softmax over one key is constant, so query and key get an exactly zero gradient."""

    def __init__(self, width=8):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        weights = (self.query(x) @ self.key(x).transpose(-1, -2)).softmax(-1)
        return self.head(x + weights @ self.value(x))


class SqueezeExcite(nn.Module):
    """Global pooling beside the main path, in every block."""

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.gate = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Sigmoid())
            nn.init.kaiming_normal_(self.conv.weight)

        def forward(self, x):
            out = F.relu(self.conv(x))
            return x + out * self.gate(self.pool(out))

    def __init__(self, channels=8, num_blocks=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(self.Block(channels) for _ in range(num_blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class AuxiliaryHead(nn.Module):
    """A second output that the loss multiplies by zero, as one does to keep distributed training content."""

    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.head = nn.Linear(width, 1)
        self.auxiliary = nn.Linear(width, 1)

    def forward(self, x):
        hidden = self.body(x)
        return self.head(hidden), self.auxiliary(hidden)


class ReturnsItsLoss(nn.Module):
    """The loss is a module of the model, and what it returns."""

    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))
        self.loss = nn.CrossEntropyLoss(reduction="sum")

    def forward(self, x, targets):
        return self.loss(self.body(x), targets) * 1e-6


def convolutional(width=16, num_blocks=4):
    """A small VGG: He-initialised convolutions, average pooling between them."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(num_blocks):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def batch_normalised(num_layers=20, width=32):
    """Plain ReLU + BatchNorm: its gradient grows slowly toward the input."""
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 4))
