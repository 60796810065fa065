"""HW203 in functional code: a product with a parameter is a layer, as a module is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.analysis.functional_signals import functional_signals
from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.rules import SignalScale
from tests.rules.conclusions import assert_well_said, the_finding

RULE = SignalScale()
WIDTH = 64
INPUTS = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(0))
PRODUCTS = {
    "linear": F.linear,
    "matmul of a view": lambda x, w: x @ w.T,
    "einsum": lambda x, w: torch.einsum("bi,oi->bo", x, w),
    "convolution": lambda x, w: F.conv1d(x[..., None], w[..., None]).squeeze(-1),
}


def weights(num_layers, std):
    generator = torch.Generator().manual_seed(1)
    return [std * torch.randn(WIDTH, WIDTH, generator=generator) for _ in range(num_layers)]


class Functional(nn.Module):
    """Products and GELUs, a norm at the end, and a head."""

    def __init__(self, num_layers=9, std=1.0, product=F.linear, *, shortcuts=False, module_at=None):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights(num_layers, std))
        self.head = nn.Parameter(weights(1, 0.1)[0][:4].clone())
        self.product, self.shortcuts, self.module_at = product, shortcuts, module_at
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.constant_(self.layer.weight, std / 8.0)

    def forward(self, x):
        for i, weight in enumerate(self.weights):
            branch = F.gelu(self.product(x, weight))
            x = x + branch if self.shortcuts else branch
            x = self.layer(x) if i == self.module_at else x
        return F.linear(F.layer_norm(x, (WIDTH,)), self.head)


def modules(num_layers=9, std=1.0):
    layers = []
    for weight in weights(num_layers, std):
        linear = nn.Linear(WIDTH, WIDTH, bias=False)
        linear.weight = nn.Parameter(weight)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4))


def check(model, inputs=INPUTS, **options):
    return RULE.check(observe(Problem(model, inputs), **options))


@pytest.mark.parametrize("std", [1.0, 5.0, 0.01, 0.001])
@pytest.mark.parametrize("name", PRODUCTS)
def test_functional_code_is_judged_as_its_modules_are(name, std):
    finding = the_finding(observe(Problem(Functional(std=std, product=PRODUCTS[name]), INPUTS)), RULE)
    expected = the_finding(observe(Problem(modules(std=std), INPUTS)), RULE)
    assert finding.severity is expected.severity
    assert finding.message.split(":")[0] == expected.message.split(":")[0]
    assert finding.evidence["first_rms"] == pytest.approx(expected.evidence["first_rms"], rel=1e-5)
    assert [line.code for line in finding.lines] != []
    assert_well_said([finding])


def test_what_is_read_and_made_is_what_plain_torch_says():
    model = Functional(3)
    found = functional_signals(observe(Problem(model, INPUTS)))
    x = INPUTS.double()
    expected = []
    for weight in model.weights:
        made = x @ weight.detach().double().T
        expected.append((x, made))
        x = F.gelu(made)
    normed = F.layer_norm(x, (WIDTH,))
    expected.append((normed, normed @ model.head.detach().double().T))
    assert [operation.operation.name for operation in found] == ["F.linear"] * 4
    for one, (read, made) in zip(found, expected, strict=True):
        assert one.read_rms == pytest.approx(read.square().mean().sqrt().item(), rel=1e-5)
        assert one.made_rms == pytest.approx(made.square().mean().sqrt().item(), rel=1e-4)


def test_a_module_between_products_stands_where_it_ran():
    model = Functional(9, module_at=4)
    finding = the_finding(observe(Problem(model, INPUTS)), RULE)
    assert finding.evidence["num_hidden_layers"] == 10
    assert finding.severity >= Severity.WARNING


class Linear(nn.Module):
    """A module of one product is one layer, measured as the module."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return F.gelu(F.linear(x, self.weight))


def test_a_module_that_is_one_product_is_counted_once():
    model = nn.Sequential(*map(Linear, weights(9, 1.0)), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4))
    finding = the_finding(observe(Problem(model, INPUTS)), RULE)
    assert finding.evidence["num_hidden_layers"] == 10  # the norm is one that owns weights, too
    assert finding.modules[-1] == "0"


class Recurrent(nn.Module):
    """One parameter at every time step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w_x, self.w_h = (nn.Parameter(torch.randn(16, 16) / 4) for _ in range(2))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        hidden = torch.zeros(len(x), 16)
        for step in x.unbind(1):
            hidden = torch.tanh(step @ self.w_x + hidden @ self.w_h)
        return self.head(hidden)


HEALTHY = {
    "He": lambda: (Functional(20, math.sqrt(2.0 / WIDTH)), INPUTS),
    "shortcuts": lambda: (Functional(20, 0.5 / math.sqrt(WIDTH), shortcuts=True), INPUTS),
    "large inputs": lambda: (Functional(20, math.sqrt(2.0 / WIDTH)), 255.0 * INPUTS),
    "two products": lambda: (Functional(1), INPUTS),
    "a loop over time": lambda: (Recurrent(), torch.randn(4, 50, 16)),
    "a single module": lambda: (nn.Sequential(nn.Linear(WIDTH, 4)), INPUTS),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_functional_code_is_looked_at_and_fine(name):
    assert check(*HEALTHY[name]()) == []


def test_without_lines_it_is_not_judged_and_says_why():
    verdict = check(Functional(), lines=False)
    assert isinstance(verdict, NotApplicable)
    assert "not where 9 more" in verdict.reason  # the module itself is seen as one layer, at its output
    assert "lines" in verdict.reason


def test_a_weight_that_is_computed_first_is_judged_with_lines():
    """Divided by its whole norm, each layer loses the root of its width."""
    model = Functional(product=lambda x, w: x @ (w / w.norm()))
    assert isinstance(check(model, lines=False), NotApplicable)
    (finding,) = check(model)
    assert "collapse" in finding.message


def test_layers_whose_signal_is_zero_have_been_seen():
    model = modules(4)
    nn.init.zeros_(model[0].weight)
    assert check(model) == []


@pytest.mark.parametrize("lines", [False, True])
def test_small_networks_of_modules_are_no_matter_of_doubt(lines):
    class OfLstm(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(WIDTH, 8, num_layers=3), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    assert check(OfLstm(), lines=lines) == []
    assert check(nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 2)), lines=lines) == []


def test_a_frozen_parameter_carries_the_signal_as_well():
    model = Functional()
    model.weights[4].requires_grad_(False)
    assert the_finding(observe(Problem(model, INPUTS)), RULE).evidence["num_hidden_layers"] == 9
