"""Chains, shortcuts, branches and merges: graphs on which gradients are compared with plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.capture.hostile_models import Lambda


def chain() -> nn.Module:
    return nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.Tanh())), nn.Linear(4, 1))


def block(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def shortcuts() -> nn.Module:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            x = x + layer(x)
        return x

    return Lambda(forward, *(block() for _ in range(5)))


def shortcuts_in_modules() -> nn.Module:
    return nn.Sequential(*(Lambda(lambda layers, x: x + layers[0](x), block()) for _ in range(5)))


def doubled_shortcut() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 4), *(Lambda(lambda layers, x: 2 * x + layers[0](x) - x, block()) for _ in range(3))
    )


def concatenated() -> nn.Module:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            x = torch.cat([x, layer(x)], -1)
        return x

    return Lambda(forward, *(nn.Sequential(nn.Linear(4 + 2 * i, 2), nn.Tanh()) for i in range(4)))


def branches() -> nn.Module:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        return layers[4](layers[1](x) * layers[2](x) + layers[3](x) + x)

    return Lambda(forward, *(nn.Linear(4, 4) for _ in range(5)))


def u_net() -> nn.Module:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        first = layers[0](x)
        second = layers[1](first)
        third = layers[2](second)
        return layers[4](layers[3](third + second) + first)

    return Lambda(forward, *(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(5)))


def reused() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.Sequential(shared, nn.Tanh(), shared, Lambda(lambda layers, x: layers[0](x) + layers[0](2 * x), shared))


def two_inputs() -> nn.Module:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, gate: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x) * gate.sigmoid(), scale * x

    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        gated, scaled = layers[1](x, layers[0](x), scale=x.mean())
        return gated + layers[2](scaled)

    return Lambda(forward, nn.Linear(4, 4), Gate(), nn.Linear(4, 4))


def one_tensor_twice() -> nn.Module:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * b.tanh()

    return Lambda(lambda layers, x: layers[1](layers[0](x), layers[0](x)) + layers[1](x, x), nn.Linear(4, 4), Product())


def passes_its_input_on() -> nn.Module:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x, y = layers[1](layers[0](x))
        return layers[2](x) + y

    return Lambda(
        forward, nn.Linear(4, 4), Lambda(lambda layers, x: (x, layers[0](x)), nn.Linear(4, 4)), nn.Linear(4, 4)
    )


def nested_views() -> nn.Module:
    class Heads(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return x.chunk(2, -1)

    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        left, right = layers[1](layers[0](x))
        return layers[2](left) * right

    return Lambda(forward, nn.Linear(4, 4), Heads(), nn.Linear(2, 2))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 2, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )


def transformer() -> nn.Module:
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Linear(4, 4), encoder, nn.Linear(4, 2))


def recurrent() -> nn.Module:
    return Lambda(
        lambda layers, x: layers[1](layers[0](x[:, None, :].expand(-1, 3, -1))[0]),
        nn.LSTM(4, 3, batch_first=True),
        nn.Linear(3, 1),
    )


def keeps_an_intermediate() -> nn.Module:
    """What the inner call made inside is read outside too, past its output: all of it is the outer call's share."""
    kept: list[Tensor] = []

    def keep(layers: nn.ModuleList, x: Tensor) -> Tensor:
        kept.append(layers[0](x))
        return layers[1](kept[-1])

    inner = Lambda(keep, nn.Linear(4, 4), nn.Tanh())
    return Lambda(lambda layers, x: layers[0](layers[1](x)) * kept.pop() + x, nn.Linear(4, 4), inner)


def nested() -> nn.Module:
    model: nn.Module = block()
    for level in range(6):
        if level % 3 == 2:  # several outputs, of which one is not used
            model = Lambda(lambda layers, x: layers[0](x) + layers[1](x)[0], block(), _Pair(model))
        else:
            model = Lambda(lambda layers, x: x + layers[1](layers[0](x)), nn.Linear(4, 4), model)
    return model


class _Pair(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x * 2


MODELS: list[Callable[[], nn.Module]] = [
    chain, shortcuts, shortcuts_in_modules, doubled_shortcut, concatenated, branches, u_net, reused, two_inputs,
    one_tensor_twice, passes_its_input_on, nested_views, convolutions, transformer, recurrent,
    nested,
]  # fmt: skip
