"""Healthy networks of many kinds, as people write them: what is odd in each of them is meant."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.detectors.case import Subject


class Attention(nn.Module):
    """Attention of one head, by hand."""

    def __init__(self, width: int, scale: float | None = None, *, mask: bool = True) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.scale, self.mask = width**-0.5 if scale is None else scale, mask

    def forward(self, x: Tensor) -> Tensor:
        """Causal, if it is masked."""
        query, key, value = self.project(x).chunk(3, -1)
        scores = self.scale * query @ key.mT
        if self.mask:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        return self.out(F.softmax(scores, -1) @ value)


class Transformer(nn.Module):
    """Pre-norm blocks with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.attention = nn.ModuleList(Attention(32) for _ in range(4))
        self.feed = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(9))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(tokens)
        for i, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + feed(self.norms[2 * i + 1](x))
        return self.norms[8](x) @ self.embed.weight.T


def transformer() -> Subject:
    tokens = torch.randint(0, 50, (4, 17))
    return Subject(
        Transformer(), tokens[:, :-1], tokens[:, 1:], lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten())
    )


class UNet(nn.Module):
    """Two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = _convolution(1, 8), _convolution(8, 16)
        self.up, self.merge, self.head = nn.ConvTranspose2d(16, 8, 2, 2), _convolution(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a mask."""
        fine = self.down(x)
        coarse = self.middle(F.max_pool2d(fine, 2))
        return self.head(self.merge(torch.cat([self.up(coarse), fine], 1)))


def _convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _dice(output: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid(output)
    return 1.0 - (2.0 * (p * target).sum() + 1.0) / (p.sum() + target.sum() + 1.0)


def u_net() -> Subject:
    return Subject(UNet(), torch.randn(4, 1, 16, 16), (torch.randn(4, 1, 16, 16) > 0).float(), _dice)


class VectorQuantiser(nn.Module):
    """An autoencoder whose codes are rounded to the nearest entry of a table, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8))
        self.codes, self.decoder = nn.Embedding(16, 8), nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        """The loss."""
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        return loss + F.mse_loss(self.decoder(z + (q - z).detach()), x)


def vector_quantiser() -> Subject:
    return Subject(VectorQuantiser(), torch.randn(64, 20))


class Twins(nn.Module):
    """Two views of a sample, one of which is a target without a gradient (SimSiam)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        self.predict = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The loss."""
        a, b = self.encode(a), self.encode(b)
        return -(
            F.cosine_similarity(self.predict(a), b.detach()) + F.cosine_similarity(self.predict(b), a.detach())
        ).mean()


def twins() -> Subject:
    return Subject(Twins(), (torch.randn(32, 20), torch.randn(32, 20)))


class Critic(nn.Module):
    """Of a Wasserstein GAN, with its gradient penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(10, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The loss."""
        mixed = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(self.score(mixed).sum(), mixed, create_graph=True)
        return self.score(fake).mean() - self.score(real).mean() + 10.0 * (slope.norm(dim=1) - 1.0).square().mean()


def critic() -> Subject:
    return Subject(Critic(), (torch.randn(32, 10), torch.randn(32, 10)))


class WaveNet(nn.Module):
    """Gated convolutions with two exits; the last block has but one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(1, 16, 1), nn.Conv1d(16, 8, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(5))
        self.on = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4))
        self.out = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """Logits for each position."""
        x, total = self.enter(x), torch.zeros(())
        for i, gate in enumerate(self.gates):
            signal, opening = gate(F.pad(x, (2**i, 0))).chunk(2, 1)
            hidden = torch.tanh(signal) * torch.sigmoid(opening)
            total = total + self.out[i](hidden)
            if i < len(self.on):
                x = x + self.on[i](hidden)
        return self.leave(F.relu(total))


def wave_net() -> Subject:
    return Subject(WaveNet(), torch.randn(4, 1, 64), torch.randint(0, 8, (4, 64)), nn.CrossEntropyLoss())


class Pictures(nn.Module):
    """Plain convolutions of a large picture, averaged by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(4))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x.mean(dim=(2, 3)))


def pictures() -> Subject:
    return Subject(Pictures(), torch.randn(4, 3, 64, 64), torch.randint(0, 10, (4,)), nn.CrossEntropyLoss())


class Dropped(nn.Module):
    """A block that is left out at random for a whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.feed = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        """With its shortcut."""
        return x + self.feed(self.norm(x)) * (torch.rand(()) < 0.7) / 0.7


def stochastic_depth() -> Subject:
    model = nn.Sequential(nn.Linear(8, 16), *(Dropped() for _ in range(8)), nn.Linear(16, 3))
    return Subject(model, torch.randn(32, 8), torch.randint(0, 3, (32,)), nn.CrossEntropyLoss())


def policy() -> Subject:
    widths = [16, 64, 64, 64, 64]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, math.sqrt(2.0))
    head = nn.Linear(64, 4)
    nn.init.orthogonal_(head.weight, 0.01)
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), head)
    return Subject(model, torch.randn(64, 16), torch.randint(0, 4, (64,)), nn.CrossEntropyLoss())


class AdditiveMask(nn.Module):
    """Attention whose mask is -1e9."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x, mask = self.embed(tokens), torch.full((tokens.size(1), tokens.size(1)), -1e9).triu(1)
        return self.head(x + self.attention(x, x, x, attn_mask=mask)[0])


def additive_mask() -> Subject:
    return Subject(AdditiveMask(), torch.randint(0, 50, (4, 16)))


class Graph(nn.Module):
    """Two rounds of messages along edges."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Logits of nodes."""
        source, target = edges
        degree = torch.bincount(target, minlength=len(x)).clamp(min=1).unsqueeze(1)
        for layer in (self.first, self.second):
            h = layer(x)
            x = torch.zeros_like(h).index_add(0, target, h[source]) / degree
            x = F.relu(x) if layer is self.first else x
        return x


def graph() -> Subject:
    edges = torch.cat([torch.randint(0, 50, (2, 200)), torch.arange(50).repeat(2, 1)], 1)
    return Subject(Graph(), (torch.randn(50, 16), edges), torch.randint(0, 4, (50,)), nn.CrossEntropyLoss())


ALL: tuple[Callable[[], Subject], ...] = (
    transformer,
    u_net,
    vector_quantiser,
    twins,
    critic,
    wave_net,
    pictures,
    stochastic_depth,
    policy,
    additive_mask,
    graph,
)
