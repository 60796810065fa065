"""Networks whose layers are products with their own parameters, not modules: `x @ self.weight`, `F.linear(x, weight)`."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import headwater as hw
from headwater.analysis.functional_layers import weight_layers
from headwater.findings import Severity
from headwater.rules import ExplodingGradient, VanishingGradient
from tests.rules.conclusions import assert_well_said, the_finding

INPUTS = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 4, (32,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Functional(nn.Module):
    """Products with the model's own matrices, each followed by an activation."""

    def __init__(self, activation, scale=1.0, num_layers=14, width=32):
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(scale * torch.randn(width, width) / math.sqrt(width)) for _ in range(num_layers)
        )
        self.head = nn.Parameter(torch.randn(width, 4) / math.sqrt(width))
        self.activation = activation

    def forward(self, x):
        for weight in self.weights:
            x = self.activation(x @ weight)
        return x @ self.head


class Recurrent(nn.Module):
    """One matrix that is read at every time step, and a head that is a module."""

    def __init__(self, gain):
        super().__init__()
        self.carry = nn.Parameter(gain * nn.init.orthogonal_(torch.empty(32, 32)))
        self.read = nn.Parameter(0.01 * torch.randn(8, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        state = torch.zeros(len(x), 32)
        for step in range(x.shape[1]):
            state = torch.tanh(state @ self.carry + x[:, step] @ self.read)
        return self.head(state)


def judged(model, inputs=INPUTS):
    return hw.diagnose(model, inputs, LABELS, loss=nn.CrossEntropyLoss(), samples=0)


def by_hand_decades(model):
    """log10 of norm(dL/d(x @ weights[0])) / norm(dL/d output), by plain autograd."""
    before = (INPUTS @ model.weights[0]).requires_grad_()
    x = model.activation(before)
    for weight in model.weights[1:]:
        x = model.activation(x @ weight)
    output = x @ model.head
    first, last = torch.autograd.grad(F.cross_entropy(output, LABELS), (before, output))
    return math.log10(first.double().norm() / last.double().norm())


# An activation that is a module makes the model no leaf; a function leaves nothing to see but the model itself.
@pytest.mark.parametrize("activation", [torch.sigmoid, nn.Sigmoid()])
def test_a_vanishing_gradient_is_found_between_operations(activation):
    model = Functional(activation)
    diagnosis = judged(model)
    finding = the_finding(diagnosis.recording, VanishingGradient())
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("",))
    assert finding.evidence["num_layers"] == 15
    assert "derivative costs" in finding.cause
    line = inspect.getsourcelines(Functional.forward)[1] + 2
    assert [line] == [place.line for place in finding.lines]
    assert finding.evidence["lost_decades"] == pytest.approx(-by_hand_decades(model), abs=1e-5)
    assert_well_said([finding])


def test_the_waterfall_leads_to_the_first_product_and_adds_up():
    model = Functional(torch.sigmoid)
    fall = judged(model).waterfall
    assert fall.gain_decades == pytest.approx(by_hand_decades(model), abs=1e-5)
    assert math.fsum(part.decades for part in fall) == pytest.approx(fall.total_decades, abs=1e-6)


def test_an_exploding_gradient_is_found_between_operations():
    finding = the_finding(judged(Functional(torch.relu, scale=4.0)).recording, ExplodingGradient())
    assert finding.severity is Severity.ERROR
    assert_well_said([finding])


def test_a_healthy_network_of_operations_raises_nothing():
    assert all(
        finding.severity < Severity.WARNING for finding in judged(Functional(torch.relu, math.sqrt(2.0))).findings
    )


def test_a_matrix_that_is_read_at_every_time_step_is_one_layer():
    recording = judged(Recurrent(0.4), torch.randn(32, 20, 8)).recording
    layers = weight_layers(recording)
    assert [layer.call.module for layer in layers] == ["", "", "head"]
    assert min(layer.gain_decades for layer in layers) > -1.0  # of all steps together, as the weights are trained


def test_a_module_that_is_one_product_stays_the_layer():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 32))

        def forward(self, x):
            return F.linear(x, self.weight)

    layers = weight_layers(judged(Own()).recording)
    assert [(layer.call.module_type, layer.operation) for layer in layers] == [("Own", None)]


def test_functional_layers_survive_saving(tmp_path):
    diagnosis = judged(Functional(torch.sigmoid))
    diagnosis.save(tmp_path / "run.hw")
    assert hw.load(tmp_path / "run.hw").findings == diagnosis.findings
