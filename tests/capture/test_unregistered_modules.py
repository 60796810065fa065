"""Modules that the model runs and does not own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe, record


class Listed(nn.Module):
    """Keeps its layers in a plain list, or a dict, or in something that is no container."""

    def __init__(self, *layers, keep=list):
        super().__init__()
        self.head = nn.Linear(4, 1)
        self.layers = keep(layers)

    def forward(self, x):
        for layer in self.layers.values() if isinstance(self.layers, dict) else self.layers:
            x = layer(x)
        return self.head(x)


def _counted(recording):
    return {(s.module, s.item): s.values.tolist() for s in recording.series("num_unregistered_parameters")}


def _seen(model, optimizer=None):
    return _counted(observe(Problem(model, torch.ones(2, 4), loss=lambda y: y.sum(), optimizer=optimizer)))


def test_layers_in_a_plain_list_are_counted_by_type():
    model = Listed(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.LayerNorm(4))
    assert _seen(model) == {("", "Linear"): [40.0], ("", "LayerNorm"): [8.0]}
    with record(model) as recorder:
        model(torch.ones(2, 4)).sum().backward()
    assert _counted(recorder.recording) == {("", "Linear"): [40.0], ("", "LayerNorm"): [8.0]}


def test_the_caller_is_named_and_of_nested_modules_the_outermost():
    inner = Listed(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), keep=lambda layers: dict(enumerate(layers)))
    assert _seen(nn.Sequential(nn.Linear(4, 4), inner)) == {("1", "Sequential"): [20.0]}


def test_a_layer_that_runs_twice_is_counted_once():
    layer = nn.Linear(4, 4)
    assert _seen(Listed(layer, layer)) == {("", "Linear"): [20.0]}


class Equal(nn.Linear):
    __hash__ = nn.Linear.__hash__

    def __eq__(self, other):
        raise RuntimeError("compared")


def test_modules_with_an_equality_of_their_own_are_no_problem():
    assert _seen(Listed(Equal(4, 4))) == {("", "Equal"): [20.0]}


class Teacher(nn.Module):
    """Runs a module under `no_grad`."""

    def __init__(self):
        super().__init__()
        self.teacher = [nn.Linear(4, 4)]
        self.student = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            goal = self.teacher[0](x)
        return self.student(x) - goal


class Functional(nn.Module):
    """A helper that is not registered, with the parameter of a model that is."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        helper = nn.Linear(4, 4, bias=False)
        helper.weight = self.weight
        self.helpers = [helper, nn.Tanh()]

    def forward(self, x):
        for helper in self.helpers:
            x = helper(x)
        return x


@pytest.mark.parametrize(
    "make",
    [
        lambda: Listed(nn.Tanh(), nn.Dropout()),
        lambda: Listed(nn.Linear(4, 4).requires_grad_(False)),
        lambda: Listed(nn.Linear(4, 4), keep=nn.ModuleList),
        Teacher,
        Functional,
    ],
)
def test_what_needs_no_training_or_is_registered_is_not_counted(make):
    assert _seen(make()) == {}


def test_what_is_in_the_optimizer_is_not_counted():
    model = Listed(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = torch.optim.SGD([*model.parameters(), *model.layers[0].parameters()], 0.1)
    assert _seen(model, optimizer) == {("", "LayerNorm"): [8.0]}
