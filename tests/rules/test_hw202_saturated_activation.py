from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import RecordingBuilder, TensorStats
from headwater.rules import SaturatedActivation
from headwater.rules.hw202_saturated_activation import _mean_relative_derivative
from tests.rules.conclusions import assert_well_said, the_finding
from tests.rules.recordings import Step, chain

RULE = SaturatedActivation()
FUNCTIONS = {
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Softsign": lambda x: x / (1.0 + np.abs(x)),
}


def _after(name, deviation, *, gain=1.0):
    values = np.random.default_rng(0).standard_normal(10_000) * deviation
    output = TensorStats.from_values(FUNCTIONS[name](np.clip(values, -700, 700)).tolist())
    return chain([Step(), Step(type=name, output=output, gain=gain, trains=False), Step()])


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("deviation", [0.3, 1.0, 5.0, 50.0])
def test_the_mean_derivative_follows_from_the_moments_of_the_output(name, deviation):
    x = torch.tensor(np.random.default_rng(0).standard_normal(10_000) * deviation, requires_grad=True)
    module = getattr(nn, name)()
    (derivative,) = torch.autograd.grad(module(x).sum(), x)
    largest = 0.25 if name == "Sigmoid" else 1.0
    recording = _after(name, deviation)
    measured = _mean_relative_derivative(recording, recording.calls[2])
    assert measured == pytest.approx(derivative.mean().item() / largest, rel=1e-6)


@pytest.mark.parametrize("name", ["Hardtanh", "Hardsigmoid"])
def test_a_piecewise_linear_one_is_judged_by_the_gradient_that_passes(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), getattr(nn, name)(), nn.Linear(64, 1))
    recording = observe(Problem(model, torch.randn(64, 8) * 1e4))
    finding = the_finding(recording, RULE)
    assert finding.modules == ("1",)
    assert finding.severity is Severity.ERROR
    assert RULE.check(observe(Problem(model, torch.randn(64, 8)))) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_healthy_inputs_are_fine(name):
    assert RULE.check(_after(name, 1.0)) == []


@pytest.mark.parametrize(
    ("deviation", "severity"),
    [(6.0, None), (12.0, Severity.WARNING), (60.0, Severity.WARNING), (200.0, Severity.ERROR)],
)
def test_the_severity_follows_the_mean_derivative(deviation, severity):
    assert [finding.severity for finding in RULE.check(_after("Tanh", deviation))] == (
        [] if severity is None else [severity]
    )


def test_the_finding_says_how_little_is_left():
    finding = the_finding(_after("Sigmoid", 1e4), RULE)
    assert finding.modules == ("1",)
    assert float(finding.evidence["mean_derivative_percent"]) < 0.1
    assert_well_said([finding])


def test_a_confident_output_is_only_worth_knowing():
    certain = TensorStats.from_values([1.0, 0.0, 1.0, 1.0])
    recording = chain([Step(), Step(type="Sigmoid", output=certain, trains=False)])
    assert the_finding(recording, RULE).severity is Severity.INFO


def test_several_calls_are_one_finding_and_the_worst_comes_first():
    half, certain = TensorStats.from_values([0.97, -0.97]), TensorStats.from_values([0.98, -0.99])
    steps = [Step(type="Tanh", output=stats, trains=False) for stats in (half, certain)]
    finding = the_finding(chain([*steps, Step()]), RULE)
    assert finding.modules == ("1", "0")
    assert_well_said([finding])


def test_a_relu6_that_is_off_half_of_the_time_is_fine_and_one_at_its_ceiling_is_not():
    off, ceiling = TensorStats.from_values([0.0, 1.0]), TensorStats.from_values([6.0, 5.99])
    for stats, found in ((off, 0), (ceiling, 1)):
        assert len(RULE.check(chain([Step(type="ReLU6", output=stats, trains=False), Step()]))) == found


def test_without_a_squashing_activation_it_does_not_apply():
    assert isinstance(RULE.check(chain([Step()])), NotApplicable)
    assert isinstance(RULE.check(RecordingBuilder().build()), NotApplicable)
