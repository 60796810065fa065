"""The notebook's network against the notebook's own words, written down again as plainly as possible."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headwater.networks import DeepNeuralNetwork

SIZES = [3, 3, 3, 3, 3, 1]


def plain_forward(model: DeepNeuralNetwork, x: torch.Tensor, *, use_shortcut: bool) -> torch.Tensor:
    for linear, gelu in model.layers:
        y = gelu(linear(x))
        x = x + y if use_shortcut and y.shape == x.shape else y
    return x


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=9), use_shortcut=st.booleans(), batch=st.integers(0, 4))
def test_any_sizes_give_linear_gelu_layers_with_a_shortcut_exactly_where_shapes_match(sizes, use_shortcut, batch):
    model = DeepNeuralNetwork(sizes, use_shortcut)
    x = torch.randn(batch, sizes[0])
    assert [(layer[0].in_features, layer[0].out_features) for layer in model.layers] == list(pairwise(sizes))
    assert all(type(layer) is nn.Sequential and type(layer[1]) is nn.GELU for layer in model.layers)
    assert torch.equal(model(x), plain_forward(model, x, use_shortcut=use_shortcut))


def test_the_parameters_carry_the_notebooks_names():
    names = [name for name, _ in DeepNeuralNetwork(SIZES, use_shortcut=False).named_parameters()]
    assert names == [f"layers.{layer}.0.{kind}" for layer in range(5) for kind in ("weight", "bias")]


def test_both_variants_have_the_same_weights_under_one_seed():
    states = []
    for use_shortcut in (False, True):
        torch.manual_seed(7)
        states.append(DeepNeuralNetwork(SIZES, use_shortcut).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_shortcut_around_zeroed_layers_passes_the_input_through():
    model = DeepNeuralNetwork([4, 4, 4], use_shortcut=True)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 4)
    assert torch.equal(model(x), x)


def test_a_hundred_layers_are_no_problem():
    assert DeepNeuralNetwork([2] * 101, use_shortcut=True)(torch.ones(1, 2)).shape == (1, 2)


def test_inputs_may_have_further_leading_dimensions_or_none():
    model = DeepNeuralNetwork(SIZES, use_shortcut=True)
    assert model(torch.ones(2, 5, 3)).shape == (2, 5, 1)
    assert model(torch.ones(3)).shape == (1,)


@pytest.mark.parametrize(
    "sizes", [[], [3], [3, 0, 1], [3, -1], [3, 2.0], [3, True], ["3", "1"], "31", None, 3, {3: 1, 1: 2}]
)
def test_wrong_sizes_get_one_sentence(sizes):
    with pytest.raises(ValueError, match="expected layer_sizes to be two or more positive integers") as caught:
        DeepNeuralNetwork(sizes, use_shortcut=False)
    assert "\n" not in str(caught.value)


def test_numpy_integers_and_tuples_are_sizes_too():
    assert len(DeepNeuralNetwork(tuple(np.array([3, 2, 1])), use_shortcut=False).layers) == 2


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (), (2, 3, 2)])
def test_an_input_of_the_wrong_width_gets_one_sentence(shape):
    with pytest.raises(ValueError, match=r"expected an input of shape \(\.\.\., 3\)") as caught:
        DeepNeuralNetwork(SIZES, use_shortcut=False)(torch.ones(shape))
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("x", [[[1.0, 0.0, -1.0]], torch.tensor([[1, 0, -1]]), None])
def test_an_input_that_is_no_floating_point_tensor_gets_one_sentence(x):
    with pytest.raises(ValueError, match="expected a floating-point tensor"):
        DeepNeuralNetwork(SIZES, use_shortcut=False)(x)
