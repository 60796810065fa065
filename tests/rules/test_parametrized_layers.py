"""Layers whose weights are computed (`torch.nn.utils.parametrize`) are layers as others are."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from headwater.analysis.functional_layers import weight_layers
from headwater.analysis.gradient_path import leaf_calls
from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import (
    ExplodingGradient,
    NoisyGradient,
    RankCollapse,
    SignalScale,
    StalledUpdate,
    SymmetricUnits,
    VanishingGradient,
    ZeroGradient,
)
from tests.rules.conclusions import alarms, assert_well_said, findings

WIDTH = 32


class Scaled(nn.Module):
    """A weight times a number."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, weight):
        return self.factor * weight


class LowRank(nn.Module):
    """A weight and an adapter; B is zero, and A is where it is said to be."""

    def __init__(self, *, a_is_zero):
        super().__init__()
        self.a = nn.Parameter((0.0 if a_is_zero else 1.0) * torch.randn(4, WIDTH))
        self.b = nn.Parameter(torch.zeros(WIDTH, 4))

    def forward(self, weight):
        return weight + self.b @ self.a


def _orthogonal(gain):
    """Layers that neither lose nor add anything, times a gain."""
    layer = nn.Linear(WIDTH, WIDTH)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    parametrize.register_parametrization(layer, "weight", Scaled(gain))
    return layer


def _stack(gain, num_layers=12):
    torch.manual_seed(0)
    return nn.Sequential(
        *(layer for _ in range(num_layers) for layer in (_orthogonal(gain), nn.Identity())), nn.Linear(WIDTH, 4)
    )


def _problem(model, **options):
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(64, WIDTH, generator=generator), torch.randint(0, 4, (64,), generator=generator)
    return Problem(model, x, targets, nn.CrossEntropyLoss(), **options)


def _codes(model, rules):
    return {f.code for f in findings(observe(_problem(model)), rules) if f.severity >= Severity.WARNING}


def test_the_modules_that_compute_a_weight_are_no_layers():
    recording = observe(_problem(_stack(1.0, num_layers=3)))
    assert [layer.call.module for layer in weight_layers(recording)] == ["0", "2", "4", "6"]
    assert [call.module for call in leaf_calls(recording)] == ["0", "1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(1.0, set()), (0.3, {"HW101", "HW203"}), (3.0, {"HW102", "HW203"})],
)
def test_a_chain_of_them_is_judged_by_its_gain(gain, expected):
    """Twelve layers at 0.3 lose 6.3 decades."""
    assert _codes(_stack(gain), [VanishingGradient(), ExplodingGradient(), SignalScale()]) == expected


@pytest.mark.parametrize(
    "make", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_torchs_own_are_healthy(make):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(layer for _ in range(6) for layer in (make(nn.Linear(WIDTH, WIDTH)), nn.ReLU())), nn.Linear(WIDTH, 4)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    assert alarms(findings(observe(_problem(model, optimizer=optimizer)))) == []


def test_a_stalled_one_is_not_taken_for_a_branch_that_is_scaled_down():
    model = _stack(0.2)
    recording = observe(_problem(model, optimizer=torch.optim.SGD(model.parameters(), 1e-3)))
    found = findings(recording, [StalledUpdate()])
    assert [finding.severity for finding in found if "scaled down" in finding.cause] == []
    assert any(finding.severity >= Severity.WARNING for finding in found)


def test_twins_in_a_parametrized_output_layer_are_the_losss_affair():
    torch.manual_seed(0)
    output = nn.Linear(WIDTH, 4)
    nn.init.constant_(output.weight, 0.1)
    parametrize.register_parametrization(output, "weight", Scaled())
    assert _codes(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), output), [SymmetricUnits()]) == set()


def test_samples_that_become_alike_are_told():
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (_orthogonal(0.05), nn.Sigmoid())]
    assert "HW204" in _codes(nn.Sequential(*layers, nn.Linear(WIDTH, 4)), [RankCollapse()])


@pytest.mark.parametrize("a_is_zero", [False, True])
def test_an_adapter_of_two_zeros_never_moves(a_is_zero):
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
    parametrize.register_parametrization(layer, "weight", LowRank(a_is_zero=a_is_zero))
    found = findings(observe(_problem(nn.Sequential(layer, nn.ReLU(), nn.Linear(WIDTH, 4)))), [ZeroGradient()])
    if not a_is_zero:
        assert alarms(found) == []
        return
    (finding,) = found
    assert finding.severity is Severity.ERROR
    assert "multiplied with each other" in finding.cause
    assert_well_said([finding])


def test_noise_that_the_network_makes_is_seen_at_its_first_layer():
    torch.manual_seed(0)
    layers = [
        layer
        for _ in range(4)
        for layer in (parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)), nn.Tanh(), nn.Dropout(0.95))
    ]
    problem = _problem(nn.Sequential(*layers, nn.Linear(WIDTH, 4)))
    (finding,) = findings(observe(problem, samples=None), [NoisyGradient()])
    assert finding.severity is Severity.WARNING
    assert finding.modules[0] == "0"
