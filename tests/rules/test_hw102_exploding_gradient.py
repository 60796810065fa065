from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from headwater.analysis.causes import is_product
from headwater.analysis.operation_path import operation_flow
from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import Context, RecordingBuilder, SignalKind, TensorStats
from headwater.rules import ExplodingGradient
from tests.rules import broken_networks as broken
from tests.rules.conclusions import alarms, assert_well_said, findings, the_finding
from tests.rules.recordings import Step, activation, chain, changed, layers, of_norm

RULE = ExplodingGradient()


@pytest.mark.parametrize(
    ("grown_decades", "severity"),
    [(2.9, None), (3.1, Severity.WARNING), (4.7, Severity.WARNING), (4.9, Severity.ERROR)],
)
def test_the_severity_follows_the_decades_grown(grown_decades, severity):
    recording = chain([Step(), *[Step(gain=10 ** (grown_decades / 3)) for _ in range(3)]])
    assert [finding.severity for finding in RULE.check(recording)] == ([] if severity is None else [severity])


def test_growth_over_layers_names_the_first_layer_and_what_multiplies():
    finding = the_finding(chain(layers(20, "Tanh", gain=0.9, weight_gain=2.5)), RULE)
    assert finding.modules == ("0",)
    assert "Linear adds 7.6 decades over 19 calls" in finding.cause
    assert finding.evidence["factor_per_layer"] == pytest.approx(2.25)
    assert_well_said([finding])


@pytest.mark.parametrize("gain", [1e4, 1e12])
def test_one_call_that_multiplies_is_named(gain):
    steps = [Step(), activation("Normalize", gain), Step()]
    finding = the_finding(chain(steps), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("1",)
    assert_well_said([finding])


def test_several_calls_that_multiply_are_one_finding_and_the_worst_comes_first():
    steps = [Step(), activation("Normalize", 1e5), Step(), activation("Normalize", 1e9), Step()]
    assert the_finding(chain(steps), RULE).modules == ("3", "1")


def test_a_gain_that_only_makes_up_for_a_loss_is_nothing():
    steps = [Step(), activation("LayerNorm", 1e5), Step(), activation("Scale", 1e-5), Step()]
    assert RULE.check(chain(steps)) == []


def test_a_gain_that_reaches_no_layer_is_only_worth_knowing():
    """A learned token that starts at zero, added before the first normalisation, as in DeiT."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    patch, norm = (builder.add_module(name, kind, parent=root) for name, kind in (("p", "Conv2d"), ("n", "LayerNorm")))
    builder.add_parameter(root, "token")
    for module, name in ((patch, "p.weight"), (norm, "n.weight")):
        builder.add_parameter(module, name)
    top = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
    first, second = (builder.add_call(module, parent=top) for module in (patch, norm))
    builder.add_signal(patch, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=first)
    builder.add_signal(norm, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=second)
    builder.add_signal(norm, SignalKind.INPUT_GRADIENT, of_norm(1e6), depth=second)
    finding = the_finding(builder.build(), RULE)
    assert finding.severity is Severity.INFO
    assert_well_said([finding])


def test_a_loss_inside_the_model_is_no_call_that_multiplies():
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    head, loss = (builder.add_module(name, kind, parent=root) for name, kind in (("h", "Linear"), ("l", "MSELoss")))
    builder.add_parameter(head, "h.weight")
    top = builder.add_call(root)
    first, second = (builder.add_call(module, parent=top) for module in (head, loss))
    builder.add_signal(head, SignalKind.ACTIVATION_GRADIENT, of_norm(1e9), depth=first)
    builder.add_signal(loss, SignalKind.INPUT_GRADIENT, of_norm(1e9), depth=second)
    builder.add_signal(loss, SignalKind.ACTIVATION, of_norm(1.0, 1), depth=second, shape=())
    builder.add_signal(loss, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0, 1), depth=second, shape=())
    assert RULE.check(builder.build()) == []


def test_what_is_not_finite_is_another_rules():
    recording = chain(layers(20, "Tanh", gain=1.0, weight_gain=2.5))
    overflown = TensorStats.from_values([math.inf, 1.0])
    stats_of = lambda s: overflown if (s.kind, s.depth) == ("input_gradient", 2) else s.stats  # noqa: E731
    assert RULE.check(changed(recording, stats_of)) == []


def test_without_a_backward_pass_it_does_not_apply():
    assert isinstance(RULE.check(RecordingBuilder().build(Context())), NotApplicable)


class UnscaledShortcuts(nn.Module):
    """x + a * relu(Wx) with He weights: the variance grows as (1 + a²)**L."""

    def __init__(self, num_layers, width, scale=1.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.head = nn.Linear(width, 4)
        self.scale = scale
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = x + self.scale * torch.relu(layer(x))
        return self.head(x)


@pytest.mark.parametrize("width", [16, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_twelve_shortcuts_with_he_weights_explode_and_scaled_ones_do_not(width, seed):
    torch.manual_seed(seed)
    inputs = broken.gaussian(32, width)
    finding = the_finding(observe(Problem(UnscaledShortcuts(12, width), inputs)), RULE)
    assert finding.severity is Severity.WARNING
    assert "Forward, the signal grows" in finding.message
    assert_well_said([finding])
    assert RULE.check(observe(Problem(UnscaledShortcuts(12, width, 12**-0.5), inputs))) == []


def test_chaos_without_a_growing_signal_is_judged_by_the_gradient_alone():
    torch.manual_seed(0)
    model = broken.plain(nn.Tanh, 10, 128, lambda weight: nn.init.normal_(weight, std=2.0 / 128**0.5))
    assert RULE.check(observe(Problem(model, broken.gaussian(32, 128)))) == []


class _Dividing(nn.Module):
    """A layer of tiny outputs, and functional code that makes them large again."""

    def __init__(self, function, std=1e-6):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.tiny, self.head = nn.Linear(16, 32), nn.Linear(32, 32, bias=False), nn.Linear(32, 3)
        nn.init.normal_(self.tiny.weight, std=std)
        self.function = function

    def forward(self, x):
        return self.head(self.function(self.tiny(torch.tanh(self.encoder(x)))))


def _judged(model):
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(64, 16, generator=generator), torch.randint(0, 3, (64,), generator=generator)
    return observe(Problem(model, x, targets, nn.CrossEntropyLoss()), lines=True, samples=0)


DIVISIONS = {
    "a standard deviation": lambda h: (h - h.mean(1, keepdim=True)) / (h.std(1, keepdim=True) + 1e-9),
    "a norm": lambda h: nn.functional.normalize(h, dim=1),
    "a root": lambda h: h * (h.square().mean(1, keepdim=True) + 1e-16).rsqrt(),
    "a power": lambda h: (h.square().mean(1, keepdim=True) + 1e-16) ** -0.5 * h,
    "a reciprocal": lambda h: h * (1.0 / (h.std(1, keepdim=True) + 1e-9)).expand_as(h),
    "a division in place": lambda h: h.clone().div_(h.norm(dim=1, keepdim=True)),
    "a layer norm": lambda h: nn.functional.layer_norm(h, (32,), eps=1e-16),
}


@pytest.mark.parametrize("kind", DIVISIONS)
def test_functional_code_that_divides_by_something_near_zero_is_an_error(kind):
    finding = the_finding(_judged(_Dividing(DIVISIONS[kind])), RULE)
    assert finding.severity is Severity.ERROR
    assert "A single operation" in finding.cause
    assert finding.modules == ("", "tiny")
    assert float(finding.evidence["backward_gain"]) > 1e4
    assert finding.lines
    assert all("lambda h" in line.code for line in finding.lines)
    assert_well_said([finding])


@pytest.mark.parametrize("kind", DIVISIONS)
def test_the_same_division_of_a_signal_of_usual_size_is_healthy(kind):
    assert alarms(findings(_judged(_Dividing(DIVISIONS[kind], std=0.1)), [RULE])) == []


@pytest.mark.parametrize("function", [lambda h: 1e6 * h, lambda h: h / 1e-6])
def test_a_product_with_a_constant_is_information_at_most(function):
    """It may be a unit of measurement."""
    assert alarms(findings(_judged(_Dividing(function)), [RULE])) == []


class _Exposed(nn.Module):
    """A raw image, times or by one number for each image: its gradient is a sum over all pixels."""

    def __init__(self, *, divides):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.exposure, self.divides = nn.Linear(8, 1), divides

    def forward(self, x):
        hidden = torch.relu(self.encoder(x))
        exposure = (0.5 + self.exposure(hidden.mean((2, 3)) / 4095.0).sigmoid())[:, :, None, None]
        image = self.decoder(hidden)
        return 16.0 * (image / exposure if self.divides else image * exposure)


@pytest.mark.parametrize("divides", [False, True])
def test_a_factor_that_many_entries_share_divides_by_nothing_small(divides):
    x = 4095.0 * torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    recording = observe(Problem(_Exposed(divides=divides), x, x, nn.MSELoss()), lines=True, samples=0)
    flow = operation_flow(recording)
    assert any(flow.gain_decades(one) > 4.0 for one in flow.operations if is_product(one.name))
    assert alarms(findings(recording, [RULE])) == []


def test_of_two_towers_the_one_that_the_division_reads_is_named():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right, self.head = (
                nn.Linear(16, 32, bias=False),
                nn.Linear(16, 32, bias=False),
                nn.Linear(32, 3),
            )
            nn.init.normal_(self.left.weight, std=1e-7)
            nn.init.normal_(self.right.weight, std=1e-6)

        def forward(self, x):
            left, right = self.left(x), self.right(x)
            return self.head(nn.functional.normalize(left, dim=1) + nn.functional.normalize(right, dim=1))

    finding = the_finding(_judged(TwoTowers()), RULE)
    assert finding.evidence["num_operations"] == 2
    assert finding.message.endswith("on its way to 'left' (Linear).")
    assert_well_said([finding])
