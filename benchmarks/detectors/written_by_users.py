"""Networks as people write them: functional code, nested modules, whole architectures, and the mistakes that are made in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.detectors import users_architectures as healthy
from benchmarks.detectors.case import Case, Subject

Function = Callable[[Tensor], Tensor]


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _activations()
    yield from _vanishing_and_exploding()
    yield from _zero_and_not_finite()
    yield from _cut_or_untrained()
    for make in healthy.ALL:
        yield Case(f"written by users: {make.__name__}", partial(_seeded, make))


def _seeded(make: Callable[[], Subject], seed: int) -> Subject:
    torch.manual_seed(seed)
    return make()


def _classifier(model: nn.Module, width: int = 20, scale: float = 1.0) -> Subject:
    return Subject(model, scale * torch.randn(64, width), torch.randint(0, 5, (64,)), nn.CrossEntropyLoss())


def _case(name: str, make: Callable[[], Subject], codes: str, module: str | None = None) -> Case:
    return Case(f"written by users: {name}", partial(_seeded, make), tuple(codes.split()), module)


class Block(nn.Module):
    """A layer, and a function that its forward calls."""

    def __init__(self, function: Function, width: int = 32) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(width, width), function

    def forward(self, x: Tensor) -> Tensor:
        """The function of the layer."""
        return self.function(self.layer(x))


class Between(nn.Module):
    """Two layers, and what a forward does between them."""

    def __init__(self, function: Function, width: int = 20) -> None:
        super().__init__()
        self.encode, self.decode, self.function = nn.Linear(width, width), nn.Linear(width, 5), function

    def forward(self, x: Tensor) -> Tensor:
        """Encode, do it, decode."""
        x = self.encode(x)
        x = self.function(x)
        return self.decode(x)


def _stack(function: Function, num_blocks: int, change: Callable[[nn.Linear], object] | None = None) -> nn.Module:
    blocks = [Block(function) for _ in range(num_blocks)]
    for block in blocks if change else ():
        assert change is not None
        change(block.layer)
    return nn.Sequential(*blocks, nn.Linear(32, 5))


def _activations() -> Iterator[Case]:
    def dead(function: Function, num_dead: int) -> Subject:
        model = _stack(function, 3)
        with torch.no_grad():
            model[1].layer.bias[:num_dead] = -40.0  # type: ignore[union-attr, index]
        return _classifier(model, 32)

    rectifiers: dict[str, Function] = {
        "F.relu": F.relu,
        "torch.relu": torch.relu,
        "clamp(min=0)": lambda x: x.clamp(min=0),
        "relu_": lambda x: x.relu_(),
        "F.relu6": F.relu6,
    }
    for name, function in rectifiers.items():
        yield _case(f"10 of 32 dead units of {name}", partial(dead, function, 10), "HW201", "1")
    yield _case("all units of F.relu dead", partial(dead, F.relu, 32), "HW201 HW103", "1")

    def dead_channels() -> Subject:
        model = nn.Sequential(nn.Conv1d(3, 16, 3, padding=1), _Lambda(F.relu), nn.Conv1d(16, 5, 3), nn.Flatten())
        with torch.no_grad():
            model[0].bias[:5] = -40.0  # type: ignore[index]
        return Subject(model, torch.randn(16, 3, 20), loss=_square)

    yield _case("5 of 16 dead channels of F.relu", dead_channels, "HW201", "1")
    squashing: dict[str, Function] = {
        "torch.sigmoid": torch.sigmoid,
        "torch.tanh": torch.tanh,
        "F.hardtanh": F.hardtanh,
        "F.hardsigmoid": F.hardsigmoid,
    }
    for name, function in squashing.items():
        make = partial(_unscaled, function)
        yield _case(f"inputs x 1e3 into {name}", make, "HW202", "")
    yield _case("attention without a scale", _sharp_attention, "HW202", "")


def _unscaled(function: Function) -> Subject:
    return _classifier(Between(function), scale=1e3)


def _sharp_attention() -> Subject:
    model = healthy.Attention(32, scale=1.0, mask=False)
    nn.init.normal_(model.project.weight, std=2.0)
    return Subject(model, torch.randn(4, 12, 32), loss=_square)


class _Lambda(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _square(output: Tensor) -> Tensor:
    return output.square().mean()


def _vanishing_and_exploding() -> Iterator[Case]:
    def tenth(x: Tensor) -> Tensor:
        return 0.01 * torch.tanh(x)

    vanishing: dict[str, tuple[Function, int]] = {
        "12 functional sigmoids": (torch.sigmoid, 12),
        "10 functional hardsigmoids": (F.hardsigmoid, 10),
        "a factor of 0.01 in each block": (tenth, 4),
        "softmax between layers": (lambda x: F.softmax(x, -1), 5),
        "25 functional ReLU, default": (F.relu, 25),
    }
    for name, (function, depth) in vanishing.items():
        yield _case(name, lambda f=function, d=depth: _classifier(_stack(f, d), 32), "HW101")
    small = partial(nn.init.normal_, std=0.01)
    make_small = lambda: _classifier(_stack(torch.tanh, 6, lambda layer: small(layer.weight)), 32)  # noqa: E731
    yield _case("6 functional tanh, weights of 0.01", make_small, "HW101")
    make_large = lambda: _classifier(_stack(F.relu, 8, lambda layer: nn.init.normal_(layer.weight)), 32)  # noqa: E731
    yield _case("8 functional ReLU, weights of 1", make_large, "HW102 HW203")


def _zero_and_not_finite() -> Iterator[Case]:
    for function in (torch.round, torch.sign, torch.floor):
        make = lambda f=function: _classifier(Between(f))  # noqa: E731
        yield _case(f"{function.__name__} between layers", make, "HW103", "encode")
    yield _case("times a mask of zeros", lambda: _classifier(Between(lambda x: x * torch.zeros(20))), "HW103", "encode")
    zeros = lambda: _classifier(Between(lambda x: F.layer_norm(x[..., None], (1,))[..., 0]))  # noqa: E731
    yield _case("a norm over one element", zeros, "HW103", "encode")

    def half() -> Subject:
        loss = lambda output: 1e-9 * output.float().square().mean()  # noqa: E731
        return Subject(nn.Linear(8, 2).half(), torch.randn(32, 8).half(), loss=loss)

    yield _case("a slope below float16", half, "HW103 HW302")
    not_finite: dict[str, Function] = {
        "log of relu": lambda x: torch.log(F.relu(x)),
        "square root of relu": lambda x: torch.sqrt(F.relu(x)),
        "a fractional power": lambda x: x**1.7,
        "softmax by hand": lambda x: (1e3 * x).exp() / (1e3 * x).exp().sum(-1, keepdim=True),
        "norm of zero": lambda x: (
            x + (x - x).norm(dim=-1, keepdim=True) + (x - x).square().sum(-1, keepdim=True).sqrt()
        ),
        "log(1 - sigmoid)": lambda x: torch.log(1.0 - torch.sigmoid(100.0 * x)),
    }
    for name, function in not_finite.items():
        yield _case(name, lambda f=function: _classifier(Between(f)), "HW104")


class _Loose(nn.Module):
    def __init__(self, *, in_list: bool) -> None:
        super().__init__()
        weight = torch.randn(20, 20, requires_grad=True)
        self.weights = [weight] if in_list else weight
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weights[0] if isinstance(self.weights, list) else self.weights
        return self.head(torch.tanh(x @ weight / math.sqrt(20)))


class _Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = F.relu(layer(x))
        return self.head(y)


def _cut_or_untrained() -> Iterator[Case]:
    cutting: dict[str, Function] = {
        "detach": lambda x: torch.tanh(x).detach(),
        ".data": lambda x: torch.tanh(x).data,
        "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
        "tolist": lambda x: torch.tensor(x.tolist()),
        "a comparison": lambda x: (x > 0).float(),
    }
    for name, function in cutting.items():
        yield _case(f"{name} between layers", lambda f=function: _classifier(Between(f)), "HW401", "encode")
    yield _case("a loop that forgets to hand on", lambda: _classifier(_Forgetful()), "HW401", "layers.0")
    yield _case("a weight that is a plain tensor", lambda: _classifier(_Loose(in_list=False)), "HW402", "")
    yield _case("weights in a list", lambda: _classifier(_Loose(in_list=True)), "HW402", "")
