from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import RecordingBuilder, SignalKind, TensorStats
from headwater.rules import DeadUnits
from tests.rules.conclusions import assert_well_said, findings, the_finding

RULE = DeadUnits()


def _rectifier(*preactivations):
    """A recording of rectifier calls with these pre-activations, arrays of shape (samples, units)."""
    builder = RecordingBuilder()
    for index, values in enumerate(preactivations):
        module = builder.add_module(str(index), "ReLU")
        depth = builder.add_call(module)
        output = TensorStats.from_values(np.maximum(values, 0.0).ravel().tolist())
        builder.add_signal(module, SignalKind.ACTIVATION, output, depth=depth)
        builder.add_units(depth, len(values), values.min(axis=0), values.max(axis=0))
    return builder.build()


def _gaussian(num_samples, num_units, *, correlation=0.0, seed=0):
    """Pre-activations of a He-initialised layer: samples that are correlated share a part of them."""
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal((1, num_units))
    own = generator.standard_normal((num_samples, num_units))
    return math.sqrt(correlation) * shared + math.sqrt(1.0 - correlation) * own


def test_units_far_below_zero_are_counted_exactly():
    values = _gaussian(64, 8)
    values[:, [1, 2, 5, 7]] -= 100.0
    finding = the_finding(_rectifier(values), RULE)
    assert finding.severity is Severity.WARNING
    assert finding.message.startswith("4 of 8 units of '0' (ReLU) are off for all 64 samples")
    assert (finding.evidence["num_dead"], finding.evidence["num_units"]) == (4, 8)
    assert_well_said([finding])


@pytest.mark.parametrize("num_dead", [1, 4, 62])
def test_the_scale_is_that_of_the_units_that_live_however_few(num_dead):
    values = _gaussian(200, 64) * 1e-6
    values[:, :num_dead] -= 1e-5
    assert the_finding(_rectifier(values), RULE).evidence["num_dead"] == num_dead


def test_a_layer_with_no_unit_alive_is_an_error():
    finding = the_finding(_rectifier(_gaussian(64, 8) - 100.0), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.evidence["num_dead"] == 8
    assert "no gradient passes" in finding.message


@given(correlation=st.floats(0.0, 0.999), num_samples=st.sampled_from([32, 128]), seed=st.integers(0, 10_000))
def test_a_deep_healthy_network_has_correlated_samples_and_is_no_alarm(correlation, num_samples, seed):
    values = _gaussian(num_samples, 128, correlation=correlation, seed=seed)
    # 25 % of the units more off than on is far beyond what a fair coin does to 128.
    assert RULE.check(_rectifier(values)) == []


def test_half_of_the_units_can_be_off_for_the_whole_batch_in_a_healthy_network():
    values = _gaussian(64, 512, correlation=0.999)
    assert np.mean(values.max(axis=0) <= 0.0) > 0.4
    assert RULE.check(_rectifier(values)) == []


def test_far_more_units_off_than_on_are_an_alarm_although_none_is_far_below():
    values = _gaussian(64, 128, correlation=0.9)
    values[:, :100] = -np.abs(values[:, :100])
    finding = the_finding(_rectifier(values), RULE)
    assert finding.severity is Severity.WARNING
    assert 100 <= int(finding.evidence["num_dead"]) == finding.evidence["num_off"]


def test_several_layers_are_one_finding_for_each_severity():
    dead, sick, healthy = _gaussian(64, 8) - 100.0, _gaussian(64, 8), _gaussian(64, 8)
    sick[:, 0] -= 100.0
    first, second = RULE.check(_rectifier(sick, dead, healthy, sick))
    assert (first.severity, first.modules) == (Severity.ERROR, ("1",))
    assert (second.severity, second.modules) == (Severity.WARNING, ("0", "3"))
    assert_well_said([first, second])


def test_too_few_samples_say_nothing():
    verdict = RULE.check(_rectifier(_gaussian(31, 8) - 100.0))
    assert verdict == NotApplicable(
        "at most 31 entries per unit: pass a batch of at least 32 samples to tell a dead unit from one that is off by chance"
    )


def test_without_a_rectifier_it_does_not_apply():
    assert isinstance(RULE.check(RecordingBuilder().build()), NotApplicable)


class _Normalised(nn.Module):
    """A convolution with batch norm, of which some channels have a negative shift."""

    def __init__(self, *, shift, num_shifted, is_functional):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.relu = nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        self.head, self.is_functional = nn.Linear(32, 4), is_functional
        with torch.no_grad():
            self.norm.weight.fill_(0.2)
            self.norm.bias.fill_(1.0)
            self.norm.bias[:num_shifted] = shift

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.head((F.relu(x) if self.is_functional else self.relu(x)).mean((2, 3)))


@pytest.mark.parametrize("is_functional", [False, True])
@pytest.mark.parametrize(
    ("shift", "num_shifted", "num_dead"),
    [
        (-2.0, 20, 20),
        (-2.0, 7, 0),
        (-0.1, 20, 0),
    ],  # ten deviations below zero, in most channels; in few; half a deviation
)
def test_behind_a_batch_norm_the_scale_is_a_units_own(is_functional, shift, num_shifted, num_dead):
    model = _Normalised(shift=shift, num_shifted=num_shifted, is_functional=is_functional)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = findings(observe(Problem(model, x), lines=True), [RULE])
    assert [finding.evidence["num_dead"] for finding in found] == ([num_dead] if num_dead else [])
    model.eval()  # then its statistics are not the batch's, and samples may be alike
    assert findings(observe(Problem(model, torch.ones(16, 1, 8, 8)), lines=True), [RULE]) == []


def test_a_latent_that_is_also_returned_is_asked_where_layers_read_it():
    class SparseAutoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.decoder = nn.Linear(16, 64), nn.Linear(64, 16)
            nn.init.constant_(self.encoder.bias, -1.5)

        def forward(self, x):
            latents = F.relu(self.encoder(x))
            return self.decoder(latents), latents

    x = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(SparseAutoencoder(), x), lines=True), RULE)
    assert finding.severity is Severity.WARNING
    assert_well_said([finding])


class _OnData(nn.Module):
    """A rectified first layer, as a module or a function."""

    def __init__(self, num_features=4, num_units=64, *, is_functional=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.head = nn.Linear(num_features, num_units), nn.ReLU(), nn.Linear(num_units, 1)
        self.is_functional = is_functional

    def forward(self, x):
        x = self.first(x)
        return self.head(F.relu(x) if self.is_functional else self.relu(x))


@pytest.mark.parametrize("is_functional", [False, True])
def test_a_first_layer_of_which_no_unit_switches_is_told(is_functional):
    """Air pressure in pascal, and temperature in kelvin: as they come."""
    generator = torch.Generator().manual_seed(0)
    air = torch.randn(128, 4, generator=generator) * torch.tensor([800.0, 8.0, 1.0, 1.0])
    x = air + torch.tensor([101325.0, 288.0, 0.0, 0.0])
    finding = the_finding(observe(Problem(_OnData(is_functional=is_functional), x), lines=True), RULE)
    assert finding.severity is Severity.WARNING
    assert finding.message.startswith("No unit of")
    assert 100.0 < float(finding.evidence["offset_in_deviations"]) < 160.0  # 101325 / 800 is 127
    assert_well_said([finding])
    standardised = (x - x.mean(0)) / x.std(0)
    assert findings(observe(Problem(_OnData(is_functional=is_functional), standardised), lines=True), [RULE]) == []


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(64, 4),  # a smoke test
        torch.linspace(0.0, 1.0, 64)[:, None],  # a regression on one coordinate
        torch.linspace(0.0, 1.0, 4096).reshape(64, 64),  # rows of positive numbers, all a little different
        torch.rand(64, 4, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["ones", "one coordinate", "ramp", "uniform"],
)
def test_data_at_which_units_switch_or_that_do_not_differ_are_no_finding(x):
    assert findings(observe(Problem(_OnData(x.shape[1]), x), lines=True), [RULE]) == []


def test_a_rectifier_that_two_layers_share_is_judged_at_each():
    """The same module, as many units and samples: the two calls are told apart by where they are, not by their names."""

    class SharedRectifier(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Linear(4, 64), nn.Linear(64, 64), nn.Linear(64, 1)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.head(self.relu(self.second(self.relu(self.first(x)))))

    x = 5e4 + torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    found = RULE.check(observe(Problem(SharedRectifier(), x)))
    assert not isinstance(found, NotApplicable)
    assert sum(finding.message.startswith("No unit of") for finding in found) == 1
