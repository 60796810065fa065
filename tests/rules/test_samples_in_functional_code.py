"""HW105 and HW106 where the first layer is a product with a raw parameter: the network is cut open there, too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.analysis.likeness import likeness
from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import NoisyGradient, RankCollapse, ShatteredGradient
from tests.rules.conclusions import alarms, assert_well_said, findings

WIDTH = 64


class Functional(nn.Module):
    """Raw weights in a list, or the same weights in layers."""

    def __init__(self, function, num_layers, *, raw, std=1.0):
        super().__init__()
        torch.manual_seed(0)
        weights = [torch.randn(WIDTH, WIDTH) * std / WIDTH**0.5 for _ in range(num_layers)]
        self.function, self.raw = function, raw
        if raw:
            self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        else:
            self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in weights)
            for layer, weight in zip(self.layers, weights, strict=True):
                layer.weight.data = weight.T.contiguous()
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x):
        for one in self.weights if self.raw else self.layers:
            x = self.function(x @ one if self.raw else one(x))
        return self.head(x)


def _recorded(model):
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(64, WIDTH, generator=generator), torch.arange(64) % 4
    return observe(Problem(model, x, targets, nn.CrossEntropyLoss()), samples=None)


def _judged(model, rule):
    return findings(_recorded(model), [rule])


@pytest.mark.parametrize("raw", [False, True])
def test_noise_that_functional_code_makes_is_seen(raw):
    (finding,) = _judged(Functional(lambda x: F.dropout(torch.tanh(x), 0.95), 4, raw=raw), NoisyGradient())
    assert finding.severity is Severity.WARNING
    assert finding.modules[0] == ("weights" if raw else "layers.0")
    assert_well_said([finding])
    assert alarms(_judged(Functional(lambda x: F.dropout(torch.tanh(x), 0.1), 4, raw=raw), NoisyGradient())) == []


@pytest.mark.parametrize("raw", [False, True])
def test_gradients_that_functional_code_shatters_are_seen(raw):
    """Chaos: tanh with weights of deviation 4 (Poole et al. 2016, arXiv 1606.05340)."""
    (finding,) = _judged(Functional(torch.tanh, 30, raw=raw, std=4.0), ShatteredGradient())
    assert finding.severity is Severity.WARNING
    assert finding.evidence["num_layers"] == 30
    assert_well_said([finding])
    assert _judged(Functional(torch.tanh, 30, raw=raw), ShatteredGradient()) == []


def test_the_numbers_are_those_of_the_same_network_in_modules():
    found = [
        likeness(_recorded(Functional(torch.tanh, 8, raw=raw, std=4.0)), "gradient_correlation_at_1024th")
        for raw in (True, False)
    ]
    means = [one.mean for one in found if one is not None]
    assert means[0] == pytest.approx(means[1], abs=0.05)  # of samples whose number follows from what is known before


def test_a_product_inside_of_torchs_own_layers_is_seen_at_the_layer():
    model = nn.Sequential(nn.Conv1d(4, WIDTH, 3), nn.Flatten(), nn.Linear(14 * WIDTH, 4), nn.Dropout(0.5))
    x = torch.randn(32, 4, 16, generator=torch.Generator().manual_seed(0))
    series = observe(Problem(model, x), samples=None).series("gradient_correlation_repeated")
    assert [one.module for one in series] == ["0"]


@pytest.mark.parametrize("raw", [False, True])
def test_samples_that_functional_code_makes_alike_are_told(raw):
    """Sigmoids with small weights: each layer brings the samples closer to its constant."""
    squashing = Functional(torch.sigmoid, 8, raw=raw, std=0.5)
    (finding,) = _judged(squashing, RankCollapse())
    assert finding.severity >= Severity.WARNING
    assert finding.modules[0] == ("" if raw else "layers.4")
    assert finding.evidence["num_layers_before"] == 4
    assert [line.code for line in finding.lines] == ["x = self.function(x @ one if self.raw else one(x))"]
    assert _judged(Functional(torch.tanh, 8, raw=raw), RankCollapse()) == []


def test_an_average_over_neighbours_makes_samples_alike():
    class Smoothing(nn.Module):
        """A graph convolution in raw parameters, 16 times (Li et al. 2018, arXiv 1801.07606)."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.weights = nn.ParameterList(nn.init.orthogonal_(torch.empty(32, 32)) for _ in range(16))
            self.head = nn.Linear(32, 3)

        def forward(self, x, neighbours):
            for weight in self.weights:
                x = torch.tanh(neighbours @ (x @ weight) + 0.3)
            return self.head(x)

    generator = torch.Generator().manual_seed(0)
    near = ((torch.rand(80, 80, generator=generator) < 0.3) | torch.eye(80, dtype=torch.bool)).float()
    x = torch.randn(80, 32, generator=generator)
    problem = Problem(Smoothing(), (x, near / near.sum(1, keepdim=True)), torch.arange(80) % 3, nn.CrossEntropyLoss())
    (finding,) = findings(observe(problem), [RankCollapse()])
    assert "Tensor.matmul in the model (Smoothing)" in finding.message
    assert_well_said([finding])
