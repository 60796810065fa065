"""Outputs of every structure."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import record
from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import Lambda, batch
from tests.capture.signals import called, has, notes


@dataclasses.dataclass
class Result:
    logits: Tensor
    hidden: list[Tensor]
    loss: Tensor | None = None
    name: str = "result"


@dataclasses.dataclass(frozen=True)
class FrozenResult:
    logits: Tensor


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None


class Mapped(collections.OrderedDict):
    """A mapping of a type of its own."""


STRUCTURES: dict[str, tuple[Callable[[Tensor], Any], set[str]]] = {
    "tuple": (lambda x: (x, x * 2), {"0", "1"}),
    "list": (lambda x: [x], {"0"}),
    "dict": (lambda x: {"a": x, "b": x * 2}, {"a", "b"}),
    "dict with numbers for keys": (lambda x: {0: x, (1, 2): x * 2}, {"0", "(1, 2)"}),
    "own mapping": (lambda x: Mapped(a=x), {"a"}),
    "named tuple": (lambda x: Pair(x, None), {"left", "0"}),
    "dataclass": (lambda x: Result(x, [x * 2]), {"logits", "hidden.0"}),
    "frozen dataclass": (FrozenResult, {"logits"}),
    "nested": (lambda x: (x, {"deep": [None, (x * 2,)]}, 3, "text"), {"0", "1.deep.1.0"}),
    "the same tensor twice": (lambda x: (x, x), {"0", "1"}),
    "with a scalar": (lambda x: (x, x.sum()), {"0", "1"}),
    "with integers": (lambda x: (x, x.argmax(-1)), {"0", "1"}),
    "with booleans": (lambda x: (x, x > 0), {"0", "1"}),
    "with a detached one": (lambda x: (x, x.detach()), {"0", "1"}),
    "with an empty one": (lambda x: (x, x[:0]), {"0", "1"}),
    "complex": (lambda x: torch.complex(x, x * 2), {""}),
    "conjugated": (lambda x: torch.complex(x, x * 2).conj(), {""}),
    "sparse": (lambda x: x.to_sparse(), {""}),
    "named dimensions": (lambda x: x.t().contiguous().t(), {""}),
}  # fmt: skip


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_of_outputs_is_observed(structure: str) -> None:
    make_output, items = STRUCTURES[structure]

    def step(case: Case) -> Any:
        if structure != "sparse":
            return forward_and_backward(case)
        output = case.model(*case.args)
        output.to_dense().sum().backward()
        return output

    recording = recording_of(
        lambda: Lambda(lambda layers, x: make_output(layers[0](x)), nn.Linear(4, 3)), batch, step=step
    )
    found = {signal.item for signal in recording.select("activation", depth=0)}
    assert found <= items
    assert found, notes(recording)
    assert has(recording, "activation_gradient", "layers.0")
    assert has(recording, "activation_gradient", "")


@pytest.mark.parametrize("nothing", [None, (), {}, [], "text", 3, {"a": None}], ids=repr)
def test_a_module_that_returns_no_tensor_is_a_call_without_an_activation(nothing: Any) -> None:
    recording = recording_of(
        lambda: Lambda(
            lambda layers, x: (layers[0](x), layers[1](x))[0], nn.Linear(4, 2), Lambda(lambda _, x: nothing)
        ),
        batch,
    )
    assert not has(recording, "activation", "layers.1")
    assert "layers.1" in called(recording)


class Box:
    """A type that nobody knows, with a tensor inside."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_an_output_of_an_unknown_type_is_named() -> None:
    recording = recording_of(
        lambda: Lambda(lambda layers, x: layers[1](layers[0](x)).tensor, nn.Linear(4, 2), Lambda(lambda _, x: Box(x))),
        batch,
    )
    assert "Box" in notes(recording)
    assert has(recording, "activation_gradient", "layers.0")


def test_a_generator_that_is_returned_is_left_unread() -> None:
    recording = recording_of(
        lambda: Lambda(
            lambda layers, x: sum(layers[1](layers[0](x))),
            nn.Linear(4, 2),
            Lambda(lambda _, x: (x * i for i in range(3))),
        ),
        batch,
    )
    assert "generator" in notes(recording)


def test_a_structure_that_contains_itself_ends() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Any:
        loop: list[Any] = [layers[0](x)]
        loop.append(loop)
        return loop

    model = Lambda(forward, nn.Linear(4, 2))
    with record(model) as recorder:
        model(batch())[0].sum().backward()
    assert has(recorder.recording, "activation_gradient", "layers.0")


@dataclasses.dataclass
class Unfinished:
    """A dataclass whose second field is never set."""

    logits: Tensor
    cache: Tensor = dataclasses.field(init=False)


def test_a_dataclass_with_a_field_that_was_never_set_is_observed() -> None:
    model = Lambda(lambda layers, x: Unfinished(layers[0](x)), nn.Linear(4, 2))
    with record(model) as recorder:
        model(batch()).logits.sum().backward()
    assert [s.item for s in recorder.recording.select("activation_gradient", depth=0)] == ["logits"]


class Refuses(collections.abc.Mapping):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("sealed")

    def __iter__(self) -> Any:
        return iter("ab")

    def __len__(self) -> int:
        return 2


def test_an_output_that_raises_when_it_is_read_is_survived_and_named() -> None:
    model = Lambda(lambda layers, x: (layers[1](x), layers[0](x))[1], nn.Linear(4, 2), Lambda(lambda _, x: Refuses()))
    with record(model) as recorder:
        model(batch()).sum().backward()
    assert "sealed" in notes(recorder.recording)
    assert has(recorder.recording, "activation_gradient", "layers.0")


def test_a_structure_of_many_paths_to_one_container_is_read_once() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Any:
        nested: Any = [layers[0](x)]
        for _ in range(15):
            nested = [nested] * 10
        return nested

    model = Lambda(forward, nn.Linear(4, 2))
    with record(model) as recorder:
        model(batch())
    assert len(recorder.recording.select("activation", depth=0)) == 1
