from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import Context, RecordingBuilder
from headwater.rules import VanishingGradient
from tests.rules import broken_networks as broken
from tests.rules.conclusions import assert_well_said, the_finding
from tests.rules.recordings import Step, activation, chain, layers, of_norm

RULE = VanishingGradient()


def _sigmoids(num_layers):
    return chain(layers(num_layers, "Sigmoid", gain=0.2, weight_gain=0.8))


@pytest.mark.parametrize(
    ("lost_decades", "severity"),
    [
        (1.9, None),
        (2.1, Severity.INFO),
        (2.9, Severity.INFO),
        (3.1, Severity.WARNING),
        (7.4, Severity.WARNING),
        (7.6, Severity.ERROR),
        (300.0, Severity.ERROR),
    ],
)
def test_the_severity_follows_the_decades_lost(lost_decades, severity):
    recording = chain([Step(), activation("Tanh", 10**-lost_decades), Step()])
    assert [finding.severity for finding in RULE.check(recording)] == ([] if severity is None else [severity])


@given(cotangent=st.floats(1e-12, 1e12), gain=st.floats(0.05, 2.0))
def test_only_what_is_lost_on_the_way_counts_not_how_little_there_is(cotangent, gain):
    def verdict(norm):
        return [f.severity for f in RULE.check(chain(layers(5, "Tanh", gain), cotangent=norm))]

    assert verdict(cotangent) == verdict(1.0)


def test_a_sigmoid_network_is_told_that_its_sigmoids_do_it():
    finding = the_finding(_sigmoids(20), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("0",)
    assert finding.cause == ("Sigmoid's derivative costs 13.3 of 15.1 decades over 19 calls, Linear 1.8 over 19.")
    assert finding.evidence["lost_decades"] == pytest.approx(15.1, abs=0.1)
    assert finding.evidence["factor_per_layer"] == pytest.approx(0.16)
    assert "Replace Sigmoid" in finding.remedies[0]
    assert "x + block(x)" in finding.remedies[1]
    assert_well_said([finding])


def test_a_rectified_network_with_small_weights_is_told_to_initialise():
    finding = the_finding(chain(layers(34, "ReLU", gain=0.7)), RULE)
    assert finding.severity is Severity.WARNING
    assert finding.cause.startswith(
        "The weights are too small to make up for what the activations cut off: ReLU's derivative costs 5.1 of 5.1 decades"
    )
    assert "kaiming" in finding.remedies[0]
    assert_well_said([finding])


def test_one_call_that_loses_it_all_is_named():
    steps = [Step(), activation("Tanh"), Step(), activation("Scale", 1e-6), Step(), activation("Tanh"), Step()]
    finding = the_finding(chain(steps), RULE)
    assert finding.modules == ("0", "3")
    assert "'3'" in finding.remedies[0]


def test_large_weights_do_not_hide_the_norm_that_takes_it_all_back():
    steps = [step for _ in range(8) for step in (Step(gain=3.0), activation("LayerNorm", 0.1))]
    finding = the_finding(chain([*steps, Step()]), RULE)
    assert finding.cause == (
        "LayerNorm divides by the deviation of a large signal: LayerNorm costs 8.0 decades over 8 calls; "
        "Linear gives 3.3 back."
    )


def test_the_weight_gradients_are_not_asked():
    steps = [Step(weight_gradient=of_norm(1e-9)) for _ in range(5)]
    assert RULE.check(chain(steps)) == []
    flat = [Step(gain=0.05, weight_gradient=of_norm(1.0)) for _ in range(5)]
    assert the_finding(chain(flat), RULE).severity is Severity.WARNING


def test_an_exactly_zero_gradient_is_another_rules():
    assert RULE.check(chain([Step(), activation("ReLU", 0.0), Step()])) == []


def test_what_is_not_zero_behind_a_zero_is_still_judged():
    steps = [Step(), activation("ReLU", 0.0), *layers(20, "Sigmoid", 0.1)]
    assert the_finding(chain(steps), RULE).modules == ("2",)


def test_without_a_backward_pass_it_does_not_apply():
    builder = RecordingBuilder()
    builder.add_call(builder.add_module("", "Linear"))
    assert isinstance(RULE.check(builder.build(Context())), NotApplicable)


def test_the_thresholds_are_the_callers():
    recording = chain(layers(4, "Tanh", 0.1))
    assert VanishingGradient(warning_decades=2.5).check(recording)[0].severity is Severity.WARNING
    assert VanishingGradient(info_decades=4.0, warning_decades=5.0).check(recording) == []


class Multiplied(nn.Module):
    """A network whose output, or whose hidden signal after the third layer, is multiplied by a constant."""

    def __init__(self, factor, *, at_output):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(8))
        self.head = nn.Linear(32, 4)
        self.factor, self.at_output = factor, at_output
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.uniform_(layer.bias, -0.2, 0.2)

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if index == 2 and not self.at_output:
                x = x * self.factor
        return self.head(x) * self.factor if self.at_output else self.head(x)


@pytest.mark.parametrize(("at_output", "severity"), [(True, Severity.INFO), (False, Severity.WARNING)])
def test_an_output_multiplier_is_no_vanishing_and_a_signal_lost_below_the_biases_is(at_output, severity):
    torch.manual_seed(0)
    finding = the_finding(observe(Problem(Multiplied(1e-4, at_output=at_output), broken.gaussian(64, 32))), RULE)
    assert finding.severity is severity
    assert ("at one place" in finding.message) == at_output
    assert_well_said([finding])


def test_the_factor_per_layer_comes_with_an_interval():
    torch.manual_seed(0)
    finding = the_finding(observe(Problem(broken.plain(nn.Sigmoid, 20, 32), broken.gaussian(64, 32))), RULE)
    names = ("factor_per_layer_low", "factor_per_layer", "factor_per_layer_high", "elasticity_decades")
    low, factor, high, elasticity = (float(finding.evidence[name]) for name in names)
    assert low < factor < high < 1.0
    assert elasticity < -7.5


def test_with_an_optimizer_it_says_how_many_weights_of_the_first_layers_do_not_move():
    torch.manual_seed(0)
    model = broken.plain(nn.Sigmoid, 20, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    problem = Problem(model, broken.gaussian(64, 32), loss=lambda out: (out - 1.0).square().mean(), optimizer=optimizer)
    finding = the_finding(observe(problem), RULE)
    assert "The next step of SGD leaves 100 % of the weights there as they are" in finding.message
    assert_well_said([finding])
