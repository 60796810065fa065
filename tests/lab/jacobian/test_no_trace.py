"""Nothing of a model has changed after its Jacobian was measured, also when that failed."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from headwater.capture import ProblemError
from headwater.lab.jacobian import jacobian_moments, singular_values


class Stateful(nn.Module):
    """Counts its calls, keeps statistics, draws random numbers."""

    def __init__(self, *, fails=False):
        super().__init__()
        self.calls, self.fails = 0, fails
        self.norm, self.dropout, self.linear = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3)

    def forward(self, x):
        self.calls += 1
        random.random()
        np.random.rand()
        x = self.linear(self.dropout(self.norm(x)))
        if self.fails:
            raise RuntimeError("on purpose")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(fails):
    model, inputs = Stateful(fails=fails), torch.randn(6, 3, requires_grad=True)
    model.linear.weight.grad = torch.ones(3, 3)
    hook = model.linear.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(model.state_dict())
    gradient, hooks = model.linear.weight.grad, dict(model.linear._forward_hooks)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    arguments = dict(layer="norm", output="linear", whole=True)
    if fails:
        with pytest.raises(ProblemError, match="on purpose"):
            jacobian_moments(model, inputs, **arguments)
    else:
        jacobian_moments(model, inputs, **arguments)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.linear.weight.grad is gradient
    assert torch.equal(gradient, torch.ones(3, 3))
    assert inputs.grad is None
    assert (model.calls, model.training, dict(model.linear._forward_hooks)) == (0, True, hooks)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()
    hook.remove()


def test_frozen_parameters_and_no_grad_do_not_matter():
    model, inputs = nn.Linear(3, 2).requires_grad_(False), torch.ones(1, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = singular_values(model, inputs, k=2)
        np.testing.assert_allclose(found.values[0], torch.linalg.svdvals(model.weight).numpy(), rtol=1e-5)
    with torch.inference_mode():
        made_inside = torch.ones(1, 3)
    assert singular_values(model, made_inside, k=1).is_converged
