"""What a model's code says about the layers that a loop over their list leaves out."""

from __future__ import annotations

import linecache

import pytest
import torch
from torch import nn

from headwater.capture.loops_over_layers import layers_left_out


class Stack(nn.Module):
    """Four layers and a norm for three of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.head = nn.Linear(8, 2)
        self.stage = 2


class ReturnsInTheLoop(Stack):
    def forward(self, x):  # noqa: RET503 - the fault
        for layer in self.layers:
            x = torch.relu(layer(x))
            return self.head(x)


class BreaksInTheLoop(Stack):
    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = torch.relu(layer(x)) + i
            break
        return self.head(x)


class ReturnsInTheLoopBackwards(Stack):
    def forward(self, x):  # noqa: RET503 - the fault
        for layer in reversed(self.layers):
            x = torch.relu(layer(x))
            return self.head(x)


class SliceWithoutTheLast(Stack):
    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.head(x)


class EverySecond(Stack):
    def forward(self, x):
        for layer in self.layers[::2]:
            x = torch.relu(layer(x))
        return self.head(x)


class RangeThatIsTooShort(Stack):
    def forward(self, x):
        for i in range(len(self.layers) - 1):
            x = torch.relu(self.layers[i](x))
        return self.head(x)


class ZipWithAShorterList(Stack):
    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = torch.relu(norm(layer(x)))
        return self.head(x)


class AnotherMethod(Stack):
    """By an author who does not say self."""

    def forward(model, x):  # noqa: N805  # pyright: ignore[reportSelfClsParameterName]
        return model.head(model.encode(x))

    def encode(model, x):  # noqa: N805  # pyright: ignore[reportSelfClsParameterName]
        for layer in model.layers[1:]:
            x = torch.relu(layer(x))
        return x


class FromOutside(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Stack()

    def forward(self, x):
        for layer in self.encoder.layers[:2]:
            x = torch.relu(layer(x))
        return self.encoder.head(x)


class RunsAFunction(Stack):
    def __init__(self):
        super().__init__()
        self.function = _returns_in_the_loop

    def forward(self, x):
        return self.function(self, x)


def _returns_in_the_loop(model, x):  # noqa: RET503 - the fault
    for layer in model.layers:
        x = torch.relu(layer(x))
        return model.head(x)


FAULTS = [
    (RunsAFunction, "layers", [1, 2, 3], "return model.head(x)"),
    (ReturnsInTheLoop, "layers", [1, 2, 3], "return self.head(x)"),
    (BreaksInTheLoop, "layers", [1, 2, 3], "break"),
    (ReturnsInTheLoopBackwards, "layers", [0, 1, 2], "return self.head(x)"),
    (SliceWithoutTheLast, "layers", [3], "for layer in self.layers[:-1]:"),
    (EverySecond, "layers", [1, 3], "for layer in self.layers[::2]:"),
    (RangeThatIsTooShort, "layers", [3], "for i in range(len(self.layers) - 1):"),
    (ZipWithAShorterList, "layers", [3], "for layer, norm in zip(self.layers, self.norms, strict=False):"),
    (AnotherMethod, "layers", [0], "for layer in model.layers[1:]:"),
    (FromOutside, "encoder.layers", [2, 3], "for layer in self.encoder.layers[:2]:"),
]


def _silent(model):
    """Paths of the modules that do not run."""
    ran = set()
    hooks = [m.register_forward_hook(lambda _m, _i, _o, name=name: ran.add(name)) for name, m in model.named_modules()]
    model(torch.ones(2, 8))
    for hook in hooks:
        hook.remove()
    return {name for name, _ in model.named_modules()} - ran


@pytest.mark.parametrize(("kind", "path", "indices", "code"), FAULTS)
def test_what_the_code_leaves_out_is_what_does_not_run(kind, path, indices, code):
    model = kind()
    silent = _silent(model)
    found = [one for one in layers_left_out(model, silent) if one.module.startswith(path)]
    assert [one.module for one in found] == [f"{path}.{index}" for index in indices]
    assert {one.module for one in found} <= silent
    for one in found:
        assert linecache.getline(one.file, one.line).strip() == code


class UpToAVariable(Stack):
    def forward(self, x):
        for layer in self.layers[: self.stage]:
            x = torch.relu(layer(x))
        return self.head(x)


class ByAnArgument(Stack):
    def forward(self, x, task=0):
        return self.head(self.layers[task](x))


class DropsLayers(Stack):
    def forward(self, x):
        for i, layer in enumerate(self.layers):
            if i % 2:
                continue
            x = torch.relu(layer(x))
        return self.head(x)


class LeavesEarly(Stack):
    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
            if x.mean() < 10.0:
                return self.head(x)
        return self.head(x)


class ChoosesTheFirstThatFits(Stack):
    def forward(self, x):
        for i, layer in enumerate(self.layers):
            if i < self.stage:
                continue
            x = layer(x)
            break
        return self.head(x)


class TwoLoops(Stack):
    def forward(self, x):
        for layer in self.layers[:1]:
            x = torch.relu(layer(x))
        for layer in self.layers[self.stage :]:
            x = torch.relu(layer(x))
        return self.head(x)


class MadeOfSome(Stack):
    def forward(self, x):
        return self.head(sum(layer(x) for layer in self.layers[:2]))


class NotLooped(Stack):
    def forward(self, x):
        return self.head(self.layers[0](x))


class TwoOfThem(Stack):
    """What comes after the first two is somebody's choice."""

    def forward(self, x):
        for layer in self.layers[:2]:
            x = torch.relu(layer(x))
        return self.head(self.more(x) if self.stage > 2 else x)

    def more(self, x):
        raise NotImplementedError


class OneByItsNumber(TwoOfThem):
    def more(self, x):
        return self.layers[-1](self.layers[2](x))


class HandsTheRestOn(TwoOfThem):
    def more(self, x):
        return _through(self.layers[2:], x)


class GivesItAName(TwoOfThem):
    def more(self, x):
        layers = self.layers
        for layer in layers[2:]:
            x = layer(x)
        return x


class ByANumberOfItsOwn(TwoOfThem):
    def more(self, x):
        i = 2
        while i < 4:
            x = self.layers[i](x)
            i += 1
        return x


class ByANumberMadeOfTheLoops(TwoOfThem):
    def more(self, x):
        for i in range(2):
            x = self.layers[i + 2](x)
        return x


class InAGenerator(TwoOfThem):
    def more(self, x):
        return sum(self.layers[i](x) for i in range(2, 4))


class InADecoratedMethod(TwoOfThem):
    @torch.enable_grad()
    def more(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class InAProperty(TwoOfThem):
    @property
    def rest(self):
        return self.layers[2:]

    def more(self, x):
        return _through(self.rest, x)


class ThroughAnotherName(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = TwoOfThem()

    def forward(self, x):
        x, inner = self.inner(x), self.inner
        return _through(inner.layers[2:], x) if inner.stage > 2 else x


def _through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize(
    "kind",
    [
        OneByItsNumber,
        HandsTheRestOn,
        GivesItAName,
        ByANumberOfItsOwn,
        ByANumberMadeOfTheLoops,
        InAGenerator,
        InADecoratedMethod,
        InAProperty,
        ThroughAnotherName,
    ],
)
def test_what_another_place_in_the_code_may_come_to_is_not_told(kind):
    model = kind()
    assert layers_left_out(model, _silent(model)) == []


class MadeInParts(TwoOfThem):
    """Where a list is made, or only its length is asked for, nothing of it runs."""

    def grow(self):
        for _ in range(3):
            self.layers.append(nn.Linear(8, 8))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(len(self.layers)))


class TakesTheFirstByItsNumber(Stack):
    def forward(self, x):
        x = self.layers[0](x)
        for layer in self.layers[1:-1]:
            x = torch.relu(layer(x))
        return self.head(x)


@pytest.mark.parametrize(("kind", "indices"), [(MadeInParts, [2, 3]), (TakesTheFirstByItsNumber, [3])])
def test_what_is_surely_left_out_is_told_beside_other_code(kind, indices):
    model = kind()
    found = layers_left_out(model, _silent(model))
    assert [one.module for one in found if "layers" in one.module] == [f"layers.{index}" for index in indices]


@pytest.mark.parametrize(
    "kind",
    [UpToAVariable, ByAnArgument, DropsLayers, LeavesEarly, ChoosesTheFirstThatFits, TwoLoops, MadeOfSome, NotLooped],
)
def test_what_something_decides_about_is_not_told(kind):
    model = kind()
    assert layers_left_out(model, _silent(model)) == []


def test_code_that_python_does_not_know_is_left_alone():
    namespace = {"Stack": Stack, "torch": torch}
    exec(
        "class Made(Stack):\n def forward(self, x):\n  for layer in self.layers:\n   return self.head(layer(x))\n",
        namespace,
    )
    model = namespace["Made"]()
    assert layers_left_out(model, _silent(model)) == []
