from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import Context, RecordingBuilder
from headwater.rules import SignalScale
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import assert_well_said, the_finding

RULE = SignalScale()
INPUTS = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def scaled(activation, factor, num_layers=30, *, bias=0.0, head=None):
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        linear = nn.Linear(16, 16)
        nn.init.normal_(linear.weight, std=factor / 4.0)
        nn.init.constant_(linear.bias, bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers, head or nn.Linear(16, 1))


def check(model, inputs=INPUTS):
    return RULE.check(observe(Problem(model, inputs), lines=False))


@pytest.mark.parametrize(
    ("activation", "factor", "severity", "word"),
    [
        (nn.Tanh, 0.6, Severity.WARNING, "collapse"),
        (nn.Tanh, 0.3, Severity.ERROR, "collapse"),
        (nn.ReLU, 2.5, Severity.WARNING, "explosion"),
        (nn.ReLU, 9.0, Severity.ERROR, "explosion"),
    ],
)
def test_a_signal_that_leaves_the_range_is_found(activation, factor, severity, word):
    recording = observe(Problem(scaled(activation, factor), INPUTS), lines=False)
    finding = the_finding(recording, RULE)
    assert finding.severity is severity
    assert f"signal-{word}" in finding.message
    assert finding.modules[-1] == "0"
    assert_well_said([finding])


def test_the_decades_are_those_of_plain_torch():
    model = scaled(nn.Tanh, 0.3)
    finding = the_finding(observe(Problem(model, INPUTS), lines=False), RULE)
    x, seen = INPUTS, []
    for module in model:
        before = x
        x = module(x)
        if isinstance(module, nn.Linear):
            seen.append(max(before.square().mean().sqrt().item(), x.square().mean().sqrt().item()))
    hidden = seen[:-1]
    last = sorted(hidden[-(len(hidden) // 10) :])
    expected = math.log10(last[(len(last) - 1) // 2] / hidden[0])
    assert finding.evidence["change_decades"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_inputs_alone_is_no_finding(scale):
    assert check(scaled(nn.ReLU, math.sqrt(2.0)), INPUTS * scale) == []


def test_biases_keep_a_signal_alive():
    assert check(scaled(nn.Tanh, 0.3, bias=0.1)) == []


def test_a_norm_at_the_end_takes_it_back():
    layers = [*scaled(nn.Tanh, 0.3)[:-1], nn.LayerNorm(16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()]
    assert check(nn.Sequential(*layers, nn.Linear(16, 1))) == []


def test_a_small_head_is_a_design():
    head = nn.Linear(16, 1)
    nn.init.normal_(head.weight, std=1e-9)
    assert check(scaled(nn.ReLU, math.sqrt(2.0), head=head)) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: healthy.residual(scale=1e-6),
        lambda: healthy.residual(scale=0.0),
        healthy.fixup,
        lambda: healthy.batch_normalised(20, 16),
        lambda: nn.Sequential(nn.Linear(16, 4), nn.Sigmoid(), nn.Linear(4, 1)),
    ],
)
def test_healthy_networks_pass(make):
    torch.manual_seed(0)
    assert check(make(), INPUTS) == []
    assert check(make(), INPUTS * 1e4) == []


def test_nothing_recorded_is_not_judged():
    assert isinstance(RULE.check(RecordingBuilder().build(Context())), NotApplicable)
