from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import headwater as hw

WIDTH = 64


def stack(activation, *, init=None, norm=None, num_layers=12, scale=1.0):
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        linear = nn.Linear(WIDTH, WIDTH)
        if init is not None:
            init(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            linear.weight.mul_(scale)
        layers += [linear, *([norm(WIDTH)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 3))


def he(weight):
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def expected_of(model, seed=0):
    inputs = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(seed))
    targets = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(seed))
    return hw.diagnose(model, inputs, targets, loss=nn.CrossEntropyLoss(), lines=False).expected


@pytest.mark.parametrize(
    ("activation", "init", "norm", "name", "factor"),
    [
        (nn.GELU, None, None, "PyTorch's default initialisation", 0.29),
        (nn.ReLU, None, None, "PyTorch's default initialisation", 0.408),
        (nn.Sigmoid, None, None, "PyTorch's default initialisation", 0.141),
        (nn.Identity, None, None, "PyTorch's default initialisation", 0.577),
        (nn.Hardtanh, None, None, "PyTorch's default initialisation", 0.577),
        (nn.Tanh, nn.init.xavier_normal_, None, "Xavier, LeCun or orthogonal initialisation", 0.87),
        (nn.ReLU, he, None, "He initialisation", 1.0),
        (lambda: nn.LeakyReLU(0.3), he, None, "He initialisation", 1.04),
        (nn.ReLU, he, nn.LayerNorm, "He initialisation", 1.0),
        (nn.ReLU, he, nn.BatchNorm1d, "He initialisation", 1.211),
    ],
)
def test_a_healthy_initialisation_is_what_theory_expects(activation, init, norm, name, factor):
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        found.append(expected_of(stack(activation, init=init, norm=norm), seed))
    assert all(rate is not None and rate.initialisation == name for rate in found)
    assert sum(rate.is_expected for rate in found if rate is not None) >= 19
    assert found[0].expected_factor == pytest.approx(factor, rel=0.08)
    assert f"is what {name} gives" in str(next(rate for rate in found if rate.is_expected))


def test_weights_that_no_initialisation_makes_are_called_so():
    torch.manual_seed(0)
    rate = expected_of(stack(nn.Tanh, init=nn.init.xavier_normal_, scale=0.1))
    assert rate is not None
    assert rate.is_expected
    assert rate.initialisation == ""
    assert "these weights (sigma_w² = 0.0" in str(rate)


def test_weights_whose_rows_are_alike_are_not_what_theory_expects():
    def rank_one(weight):
        weight.data.copy_(torch.outer(torch.randn(WIDTH), torch.randn(WIDTH)) * math.sqrt(1.0 / WIDTH))

    torch.manual_seed(0)
    rate = expected_of(stack(nn.Tanh, init=rank_one))
    assert rate is not None
    assert not rate.is_expected
    assert "than" in str(rate)


def test_a_linear_network_is_said_to_have_no_activation():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(10)), nn.Linear(WIDTH, 3))
    assert "PyTorch's default initialisation gives with no activation (theory 0.576," in str(expected_of(model))


def test_a_hardtanh_of_other_bounds_is_not_taken_for_the_usual_one():
    assert expected_of(stack(lambda: nn.Hardtanh(-0.1, 0.1))) is None


def test_one_layer_whose_weights_are_ten_times_too_large_is_not_what_the_initialisation_gives():
    torch.manual_seed(0)
    model = stack(nn.GELU)
    with torch.no_grad():
        model[10].weight.mul_(10.0)
    rate = expected_of(model)
    assert rate.initialisation == "PyTorch's default initialisation"
    assert rate.measured_factor > rate.high


def test_functional_activations_are_known_where_operations_were_recorded():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return x

    torch.manual_seed(0)
    diagnosis = hw.diagnose(Functional(), torch.randn(32, WIDTH))
    assert diagnosis.expected is not None
    assert diagnosis.expected.activation == "Tanh"
    assert diagnosis.expected.is_expected


def test_convolutions_are_layers_too():
    torch.manual_seed(0)
    layers = [m for _ in range(6) for m in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    for module in layers[::2]:
        he(module.weight)
    diagnosis = hw.diagnose(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 256, 2)), torch.randn(4, 16, 16, 16))
    assert diagnosis.expected is not None
    assert diagnosis.expected.initialisation == "He initialisation"
    assert diagnosis.expected.is_expected


@pytest.mark.parametrize("model", [nn.Linear(WIDTH, 3), stack(nn.Hardswish), stack(nn.Tanh, num_layers=2)])
def test_where_there_is_no_known_stack_nothing_is_said(model):
    diagnosis = hw.diagnose(model, torch.randn(8, WIDTH))
    assert diagnosis.expected is None
    assert diagnosis.to_dict()["expected"] is None


def test_the_report_says_it_and_json_holds_it():
    torch.manual_seed(0)
    diagnosis = hw.diagnose(stack(nn.GELU), torch.randn(32, WIDTH))
    assert "PyTorch's default initialisation" in str(diagnosis)
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))["expected"]
    assert data["is_expected"] is True
    assert data["activation"] == "GELU"
