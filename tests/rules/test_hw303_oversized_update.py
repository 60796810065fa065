from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.rules import OversizedUpdate
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import alarms, assert_well_said, findings, the_finding
from tests.rules.recordings import Step, chain
from tests.rules.stepped_recordings import Matrix, lost, stepped

RULE = OversizedUpdate()
WARNING, ERROR = Severity.WARNING, Severity.ERROR


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("update", "severity"), [(1e-4, None), (0.049, None), (0.051, WARNING), (0.11, ERROR)])
def test_the_step_relative_to_the_weight_makes_the_severity(update, severity):
    found = findings(stepped(Matrix(lost(), weight=0.1, update=update), Matrix(lost())), [RULE])
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert_well_said(found)


def test_layers_of_one_severity_are_one_finding_with_the_worst_first():
    big, bigger, medium = (Matrix(lost(), update=update) for update in (0.2, 0.3, 0.06))
    error, warning = findings(stepped(big, medium, bigger), [RULE])
    assert (error.severity, error.modules) == (ERROR, ("2", "0"))
    assert error.evidence["update_to_weight"] == pytest.approx(3.0)
    assert error.evidence["better_learning_rate"] == pytest.approx(0.1 * 1e-3 / 3.0)
    assert (warning.severity, warning.modules) == (WARNING, ("1",))
    assert_well_said([error, warning])


@pytest.mark.parametrize("weight", [0.0, 0.03])
def test_a_weight_that_is_zero_or_tiny_is_measured_by_the_usual_size(weight):
    # fan_in is 10: the usual size is 0.32, and below 0.032 a weight is tiny
    assert RULE.check(stepped(Matrix(lost(), weight=weight, update=0.1))) == []
    assert the_finding(stepped(Matrix(lost(), weight=weight, update=0.4)), RULE).severity is ERROR
    assert the_finding(stepped(Matrix(lost(), weight=0.04, update=0.1)), RULE).severity is ERROR


def test_vectors_are_not_judged():
    assert RULE.check(stepped(Matrix(lost(), weight=0.1, update=9.0, shape=(100,)), Matrix(lost()))) == []


def test_without_a_step_it_does_not_apply_and_says_what_to_pass():
    verdict = RULE.check(chain([Step()]))
    assert isinstance(verdict, NotApplicable)
    assert "pass optimizer= to diagnose()" in verdict.reason


# --- real networks --------------------------------------------------------------------------------------------------


def _seen(model, make, inputs=None, loss=None):
    inputs = broken.gaussian(32, 64) if inputs is None else inputs
    loss = (lambda output: (output - 1.0).square().mean()) if loss is None else loss
    return observe(Problem(model, inputs, loss=loss, optimizer=make(model.parameters())))


def _mlp(width=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "NAdam"])
def test_usual_rates_are_no_alarm(name, rate):
    assert RULE.check(_seen(_mlp(), lambda p: getattr(torch.optim, name)(p, rate))) == []


def test_adams_first_step_is_the_rate_whatever_the_gradient_is():
    recording = _seen(_mlp(), lambda p: torch.optim.Adam(p, 0.1))
    finding = the_finding(recording, RULE)
    # The weights are uniform up to 1/8: their RMS is 0.125 / sqrt(3).
    assert finding.severity is ERROR
    assert finding.evidence["update_to_weight"] == pytest.approx(0.1 / (0.125 / 3**0.5), rel=0.1)
    assert_well_said([finding])


def test_the_rate_that_is_named_makes_the_step_a_thousandth():
    named = the_finding(_seen(_mlp(), lambda p: torch.optim.Adam(p, 0.3)), RULE).evidence["better_learning_rate"]
    recording = _seen(_mlp(), lambda p: torch.optim.Adam(p, float(named)))
    ratios = [
        update.stats.rms / weight.stats.rms
        for update, weight in zip(recording.select("update"), recording.select("weight"), strict=True)
        if len(update.shape) == 2
    ]
    assert max(ratios) == pytest.approx(1e-3, rel=0.1)


def test_an_exploded_gradient_is_an_oversized_step_of_sgd():
    model = broken.ExplodingShortcuts(width=16)
    finding = the_finding(_seen(model, lambda p: torch.optim.SGD(p, 0.1), broken.gaussian(32, 16)), RULE)
    assert finding.severity is ERROR


@pytest.mark.parametrize(("scale", "is_the_cause"), [(1e8, True), (1e4, True), (10.0, False)])
def test_a_loss_that_is_scaled_up_is_its_own_cause(scale, is_the_cause):
    torch.manual_seed(0)
    model = broken.plain(nn.Tanh, 4, 16, nn.init.xavier_normal_)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    problem = Problem(
        model, broken.gaussian(64, 16), loss=lambda out: scale * (out - 1.0).square().mean(), optimizer=optimizer
    )
    finding = the_finding(observe(problem), RULE)
    assert ("the loss is steep" in finding.cause, "Scale the loss down" in finding.remedies[0]) == (is_the_cause,) * 2
    assert_well_said([finding])


def test_adam_does_not_mind_the_scale_of_the_loss():
    torch.manual_seed(0)
    model = broken.plain(nn.Tanh, 4, 16, nn.init.xavier_normal_)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    problem = Problem(
        model, broken.gaussian(64, 16), loss=lambda out: 1e8 * (out - 1.0).square().mean(), optimizer=optimizer
    )
    assert RULE.check(observe(problem)) == []


def test_adam_in_float16_makes_nan_of_finite_numbers():
    model = _mlp().half()
    loss = lambda output: 1e-3 * output.float().square().mean()  # noqa: E731
    recording = _seen(model, torch.optim.Adam, broken.gaussian(32, 64).half(), loss)
    (finding,) = (f for f in findings(recording, [RULE]) if "NaN" in f.message)
    assert finding.severity is ERROR
    assert_well_said([finding])
    mended = _seen(model, lambda p: torch.optim.Adam(p, eps=1e-4), broken.gaussian(32, 64).half(), loss)
    assert RULE.check(mended) == []


def test_a_gradient_that_is_not_finite_is_not_the_optimizers_fault():
    recording = _seen(_mlp(), torch.optim.Adam, loss=lambda output: output.sum() * float("nan"))
    assert RULE.check(recording) == []


def _scaled(layer, factor):
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer


HEALTHY = {
    "LoRA": (healthy.Lora, broken.gaussian(16, 16)),
    "ReZero": (lambda: healthy.residual(scale=0.0), broken.gaussian(64, 16)),
    "LayerScale": (lambda: healthy.residual(num_blocks=20, scale=1e-6), broken.gaussian(64, 16)),
    "Fixup": (healthy.fixup, broken.gaussian(64, 16)),
    "zero gamma": (healthy.zero_gamma, broken.gaussian(4, 3, 8, 8)),
    "adaLN-Zero": (lambda: healthy.AdaptiveNormZero(zero_head=True), (broken.gaussian(8, 16), broken.gaussian(8, 4))),
    "experts": (healthy.SparseExperts, broken.gaussian(64, 8)),
    "bias before BatchNorm": (healthy.batch_normalised, broken.gaussian(64, 32)),
    "convolutions": (healthy.convolutional, broken.gaussian(8, 3, 32, 32)),
    "a policy whose last layer is tiny": (
        lambda: nn.Sequential(nn.Linear(8, 64), nn.Tanh(), _scaled(nn.Linear(64, 4), 0.01)),
        broken.gaussian(32, 8),
    ),
    "a wide head that starts at zero": (
        lambda: nn.Sequential(nn.Linear(8, 4096), nn.ReLU(), broken.zeroed(nn.Linear(4096, 2))),
        broken.gaussian(32, 8),
    ),
    "an embedding": (
        lambda: nn.Sequential(nn.Embedding(100, 16), nn.Flatten(), nn.Linear(64, 4)),
        torch.arange(128).view(32, 4) % 100,
    ),
}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_no_alarm(name, optimizer):
    torch.manual_seed(0)
    make, inputs = HEALTHY[name]
    assert alarms(findings(_seen(make(), lambda p: getattr(torch.optim, optimizer)(p, 1e-3), inputs), [RULE])) == []
