"""Functional code that multiplies by a weight that is computed, or data that are moved by a parameter first."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.analysis.functional_layers import weight_layers
from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import DeadUnits, SignalScale, SymmetricUnits, VanishingGradient
from tests.rules.conclusions import alarms, findings

WIDTH = 32


class Raw(nn.Module):
    """Layers of raw parameters; `first` makes what the first one reads, `weight` what each multiplies by."""

    def __init__(self, *, first=lambda model, x: x, weight=lambda w: w, num_layers=8, gain=1.0):
        super().__init__()
        torch.manual_seed(0)
        made = (gain * nn.init.orthogonal_(torch.empty(WIDTH, WIDTH)) for _ in range(num_layers))
        self.weights = nn.ParameterList(map(nn.Parameter, made))
        self.shift, self.table = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.randn(50, WIDTH))
        self.last = nn.Parameter(torch.randn(WIDTH, 4) / WIDTH**0.5)
        self.first, self.weight = first, weight

    def forward(self, x):
        x = self.first(self, x)
        for w in self.weights:
            x = torch.tanh(x @ self.weight(w))
        return x @ self.last


FIRST = {
    "data": lambda model, x: x,
    "data less a parameter": lambda model, x: x - model.shift,
    "rows of a table": lambda model, x: model.table[(x[:, 0].abs() * 10).long().clamp(max=49)],
    "rows beside data": lambda model, x: 0.5 * x + model.table[: len(x)],
}
WEIGHT = {
    "itself": lambda w: w,
    "its transpose": lambda w: w.T,
    "normalised": lambda w: w * (WIDTH**0.5 / w.norm()),
    "twice the half": lambda w: 2.0 * (0.5 * w),
    "two of them": lambda w: 0.5 * (w + w),
}


def _problem(model):
    generator = torch.Generator().manual_seed(0)
    return Problem(model, torch.randn(48, WIDTH, generator=generator), torch.arange(48) % 4, nn.CrossEntropyLoss())


@pytest.mark.parametrize("first", FIRST)
def test_all_layers_are_seen_whatever_is_done_to_the_data_before(first):
    assert len(weight_layers(observe(_problem(Raw(first=FIRST[first]))))) >= 9
    recording = observe(_problem(Raw(first=FIRST[first], gain=0.1)))
    codes = {
        f.code for f in findings(recording, [VanishingGradient(), SignalScale()]) if f.severity >= Severity.WARNING
    }
    assert codes == {"HW101", "HW203"}
    healthy = observe(_problem(Raw(first=FIRST[first])))
    assert alarms(findings(healthy, [VanishingGradient(), SignalScale()])) == []


@pytest.mark.parametrize("weight", WEIGHT)
def test_a_product_with_a_computed_weight_is_a_layer(weight):
    assert len(weight_layers(observe(_problem(Raw(weight=WEIGHT[weight]))))) == 9
    shrunk = Raw(weight=lambda w: 0.1 * WEIGHT[weight](w))
    assert {f.code for f in findings(observe(_problem(shrunk)), [VanishingGradient(), SignalScale()])} == {
        "HW101",
        "HW203",
    }


def test_what_is_multiplied_among_weights_is_no_layer():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.w, self.a, self.b = (
                nn.Parameter(torch.randn(*s) / 6) for s in ((WIDTH, WIDTH), (WIDTH, 4), (4, WIDTH))
            )
            self.last = nn.Linear(WIDTH, 4)

        def forward(self, x):
            return self.last(torch.tanh(x @ (self.w + (0.5 * self.a) @ self.b)))

    recording = observe(_problem(Adapted()))
    assert [series.item for series in recording.series("multiplied")] == ["Tensor.matmul"]


def test_dead_units_behind_data_that_are_moved_first_are_seen():
    class SparseCoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.w, self.b = nn.Parameter(torch.randn(WIDTH, 64) / WIDTH**0.5), nn.Parameter(torch.full((64,), -0.5))
            self.shift, self.v = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.randn(64, 4) / 8)
            self.b.data[40:] = -9.0

        def forward(self, x):
            return F.relu((x - self.shift) @ self.w + self.b) @ self.v

    (finding,) = findings(observe(_problem(SparseCoder())), [DeadUnits()])
    assert finding.evidence["num_dead"] == 24


def test_twins_behind_rows_of_a_table_are_seen():
    class Recommender(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Parameter(0.1 * torch.randn(50, 16))
            self.w, self.v = nn.Parameter(torch.ones(16, WIDTH) / 16), nn.Parameter(torch.ones(WIDTH, 4) / WIDTH)

        def forward(self, x):
            rows = self.table[(x[:, 0].abs() * 10).long().clamp(max=49)]
            return torch.sigmoid(rows @ self.w) @ self.v

    (finding,) = findings(observe(_problem(Recommender())), [SymmetricUnits()])
    assert "'w'" in finding.message
