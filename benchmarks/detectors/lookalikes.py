"""Faults that look like designs, each beside a design that looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.detectors.case import Case, Subject

_WIDTH, _CLASSES = 32, 4


def cases() -> Iterator[Case]:
    """All of them."""
    for name, make, codes, module in _FAULTS:
        yield Case(f"lookalikes: {name}", partial(_seeded, make), tuple(codes.split()), module)
    for name, make in _DESIGNS:
        yield Case(f"lookalikes: {name}", partial(_seeded, make))


def _seeded(make: Callable[[], Subject], seed: int) -> Subject:
    torch.manual_seed(seed)
    return make()


def _classifier(model: nn.Module, inputs: Tensor | None = None) -> Subject:
    inputs = torch.randn(64, 16) if inputs is None else inputs
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return Subject(model, inputs, torch.arange(len(inputs)) % _CLASSES, nn.CrossEntropyLoss(), optimizer)


class _Net(nn.Module):
    """A layer, what a forward does with it, and a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(16, _WIDTH), nn.Linear(_WIDTH, _CLASSES), function

    def forward(self, x: Tensor) -> Tensor:
        """First, function, last."""
        return self.last(self.function(self.first(x)))


class _Attention(nn.Module):
    """One head over six positions, by modules."""

    def __init__(self, zeros: str) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, _CLASSES)
        for name in zeros.split():
            layer = getattr(self, name)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scores scaled by the root of the width."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4.0
        return self.last((x + scores.softmax(-1) @ self.value(x)).mean(1))


class _Adapted(_Net):
    """Low-rank adapters of raw parameters."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(std * torch.randn(16, 4)), nn.Parameter(torch.zeros(4, _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """The adapter beside the first layer."""
        return self.last(torch.tanh(self.first(x) + x @ self.a @ self.b))


class _Stack(_Net):
    """Four more layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(_WIDTH, _WIDTH) for _ in range(4))
        self.depth = 2


class _ReturnsInTheLoop(_Stack):
    def forward(self, x: Tensor) -> Tensor:
        """One level of indentation too much."""
        x = self.first(x)
        for layer in self.layers:
            x = F.relu(layer(x))
            return self.last(x)
        return x


class _SliceIsTooShort(_Stack):
    def forward(self, x: Tensor) -> Tensor:
        """The last layer is left out."""
        x = self.first(x)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.last(x)


class _Elastic(_Stack):
    def forward(self, x: Tensor) -> Tensor:
        """As many layers as are asked for."""
        x = self.first(x)
        for layer in self.layers[: self.depth]:
            x = F.relu(layer(x))
        return self.last(x)


class _OneOfMany(_Stack):
    def forward(self, x: Tensor) -> Tensor:
        """The layer of this task."""
        return self.last(F.relu(self.layers[self.depth](self.first(x))))


class _ScaledParameter(_Net):
    """A weight that was scaled when it was made."""

    def __init__(self, *, registered: bool) -> None:
        super().__init__()
        weight = nn.Parameter(torch.randn(16, _WIDTH))
        self.weight = nn.Parameter(weight.detach() * 0.1) if registered else weight * 0.1

    def forward(self, x: Tensor) -> Tensor:
        """Beside the first layer."""
        return self.last(torch.tanh(self.first(x) + x @ self.weight))


class _Policy(nn.Module):
    """A mean, and a log deviation that is clamped."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.first, self.last, self.log_std = (
            nn.Linear(16, _WIDTH),
            nn.Linear(_WIDTH, _CLASSES),
            nn.Linear(_WIDTH, _CLASSES),
        )
        self.bounds = (low, high)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        x = torch.tanh(self.first(x))
        return self.last(x), self.log_std(x).clamp(*self.bounds)


def _policy(low: float, high: float) -> Subject:
    def likelihood(output: tuple[Tensor, Tensor]) -> Tensor:
        mean, log_std = output
        return (0.5 * ((mean - 1.0) / log_std.exp()) ** 2 + log_std).mean()

    model = _Policy(low, high)
    return Subject(model, torch.randn(64, 16), None, likelihood, torch.optim.Adam(model.parameters(), 1e-3))


def _divided(std: float) -> Subject:
    model = _Net(lambda h: (h - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + 1e-9))
    nn.init.normal_(model.first.weight, std=std)
    nn.init.zeros_(model.first.bias)
    return _classifier(model)


def _shifted(shift: float) -> Subject:
    norm = nn.BatchNorm2d(32)
    with torch.no_grad():
        norm.weight.fill_(0.2)
        norm.bias[:20] = shift
    layers = nn.Conv2d(1, 32, 3, padding=1, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(2048, _CLASSES)
    return _classifier(nn.Sequential(*layers), torch.randn(32, 1, 8, 8))


def _far_from_zero(offset: float) -> Subject:
    return _classifier(_Net(F.relu), offset + torch.randn(128, 16))


def _attending(scale: float, *, fused: bool) -> Subject:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, _WIDTH), nn.Linear(_WIDTH, _CLASSES)
            self.attention = nn.MultiheadAttention(_WIDTH, 4, batch_first=True)
            with torch.no_grad():
                self.attention.in_proj_weight[: 2 * _WIDTH] *= scale

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if not fused:
                return self.last((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))
            parts = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)
            made = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.last((x + self.attention.out_proj(made)).mean(1))

    return _classifier(Attending(), torch.randn(64, 6, 16))


def _routed(sharpness: float) -> Subject:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.last = nn.Linear(16, 6), nn.Linear(_WIDTH, _CLASSES)
            self.experts = nn.ModuleList(nn.Linear(16, _WIDTH) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            share = torch.softmax(sharpness * self.router(x), -1)
            return self.last((share[..., None] * torch.stack([expert(x) for expert in self.experts], 1)).sum(1))

    return _classifier(Router(), torch.randn(256, 16))


def _certain(scale: float) -> Subject:
    def loss(probabilities: Tensor, targets: Tensor) -> Tensor:
        return -(F.one_hot(targets, _CLASSES) * torch.log(probabilities)).sum(1).mean()

    model = nn.Sequential(_Net(lambda h: scale * torch.tanh(h)), nn.Softmax(-1))
    return Subject(model, torch.randn(64, 16), torch.arange(64) % _CLASSES, loss)


class _Blocks(nn.Module):
    """Branches that start scaled down, on the data themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(6)
        )
        self.scales = nn.ParameterList(nn.Parameter(torch.full((16,), 1e-5)) for _ in range(6))
        self.last = nn.Linear(16, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """LayerScale (Touvron et al. 2021, arXiv 2103.17239)."""
        for branch, scale in zip(self.branches, self.scales, strict=True):
            x = x + scale * branch(x)
        return self.last(x)


_Row = tuple[str, Callable[[], Subject], str, str | None]
_FAULTS: tuple[_Row, ...] = (
    ("query and key zero", lambda: _classifier(_Attention("query key"), torch.randn(64, 6, 16)), "HW103", "query"),
    ("both adapters zero", lambda: _classifier(_Adapted(0.0)), "HW103", ""),
    ("return in the loop", lambda: _classifier(_ReturnsInTheLoop()), "HW401", "layers.2"),
    ("a slice that is too short", lambda: _classifier(_SliceIsTooShort()), "HW401", "layers.3"),
    ("a parameter times a number", lambda: _classifier(_ScaledParameter(registered=False)), "HW402", ""),
    ("a clamp with its bounds swapped", lambda: _policy(2.0, -5.0), "HW103", "log_std"),
    ("a deviation near zero", lambda: _divided(1e-7), "HW102", "first"),
    ("channels that a norm shifts off", lambda: _shifted(-2.0), "HW201", "2"),
    ("data far from zero", lambda: _far_from_zero(1000.0), "HW201", ""),
    ("sharp scores in a module", lambda: _attending(40.0, fused=False), "HW202", "attention"),
    ("sharp scores in fused attention", lambda: _attending(40.0, fused=True), "HW202", ""),
    ("a router without a temperature", lambda: _routed(1e3), "HW202", ""),
    ("log of zero in the loss", lambda: _certain(1e4), "HW104", ""),
)
_DESIGNS: tuple[tuple[str, Callable[[], Subject]], ...] = (
    ("query zero", lambda: _classifier(_Attention("query"), torch.randn(64, 6, 16))),
    ("query and key zero over one position", lambda: _classifier(_Attention("query key"), torch.randn(64, 1, 16))),
    ("one adapter zero", lambda: _classifier(_Adapted(0.5))),
    ("as many layers as are asked for", lambda: _classifier(_Elastic())),
    ("the layer of one task", lambda: _classifier(_OneOfMany())),
    ("a parameter made of scaled numbers", lambda: _classifier(_ScaledParameter(registered=True))),
    ("a clamp in its range", lambda: _policy(-5.0, 2.0)),
    ("a deviation of usual size", lambda: _divided(0.25)),
    ("channels that a norm shifts a little", lambda: _shifted(-0.1)),
    ("data near zero", lambda: _far_from_zero(1.0)),
    ("scores of usual size in a module", lambda: _attending(1.0, fused=False)),
    ("scores of usual size in fused attention", lambda: _attending(1.0, fused=True)),
    ("a router with a temperature", lambda: _routed(1.0)),
    ("probabilities that are not certain", lambda: _certain(1.0)),
    ("branches scaled down on the data", lambda: _classifier(_Blocks())),
)
