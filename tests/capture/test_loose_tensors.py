"""Tensors that modules keep beside their parameters: which of them somebody forgot to register."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.capture import torch_internals
from headwater.capture.loose_tensors import loose_tensors


class KeepsItsStates(nn.Module):
    """A loop over time that keeps its hidden states; the weight is a parameter, or was put into a list."""

    def __init__(self, *, is_registered, num_steps=30):
        super().__init__()
        weight = nn.Parameter(torch.eye(4))
        if is_registered:
            self.weight = weight
        self.weights, self.states, self.num_steps = [weight], [], num_steps

    def forward(self, x):
        self.states = [x]
        for _ in range(self.num_steps):
            self.states.append(torch.tanh(self.states[-1] @ self.weights[0] + x))
        return self.states[-1]


@pytest.mark.parametrize(("is_registered", "named"), [(True, []), (False, ["weights[0]"])])
def test_states_of_an_earlier_pass_are_named_after_what_they_come_of(is_registered, named):
    model = KeepsItsStates(is_registered=is_registered)
    model(torch.ones(2, 4))
    assert [one.attribute for one in loose_tensors(model)] == named


def test_what_is_computed_from_a_parameter_that_nobody_keeps_is_named_itself():
    model = nn.Linear(2, 1)
    model.scaled = nn.Parameter(torch.ones(3)) * 0.1
    model.doubled = model.scaled * 2.0
    found = loose_tensors(model)
    assert [one.attribute for one in found] == ["scaled", "doubled"]
    assert found[0].leaves[0] is found[1].leaves[0]


@pytest.mark.parametrize("is_registered", [True, False])
def test_each_state_of_a_loop_is_looked_at_once(is_registered, monkeypatch):
    """Each comes of all those before it: searched one by one, 2000 states took 18 s."""
    seen = []
    real = torch_internals.leaf_of
    monkeypatch.setattr(torch_internals, "leaf_of", lambda node: (seen.append(node), real(node))[1])
    model = KeepsItsStates(is_registered=is_registered, num_steps=200)
    model(torch.ones(2, 4))
    loose_tensors(model)
    assert len(seen) < 10 * 200
