from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.analysis.layer_steps import cancellation_decades, layer_steps, loss_slope
from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import Context
from headwater.rules import StalledUpdate
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import alarms, assert_well_said, findings, the_finding
from tests.rules.recordings import Step, chain
from tests.rules.stepped_recordings import Matrix, lost, stepped

RULE = StalledUpdate()
INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
MOVING = Matrix(lost())


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounded", "severity"), [(0, None), (49, None), (50, WARNING), (98, WARNING), (99, ERROR)])
def test_the_share_that_is_rounded_away_makes_the_severity(rounded, severity):
    found = findings(stepped(Matrix(lost(rounded)), MOVING), [RULE])
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert_well_said(found)


@pytest.mark.parametrize(("shrunk", "severity"), [(49, None), (50, WARNING), (99, ERROR)])
def test_the_share_that_eps_shrinks_makes_the_severity_though_the_weights_move(shrunk, severity):
    found = findings(stepped(Matrix(lost(shrunk=shrunk)), MOVING), [RULE])
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all("eps = 1e-08" in finding.cause for finding in found)
    assert_well_said(found)


def test_rounding_and_eps_are_findings_apart():
    found = findings(stepped(Matrix(lost(100)), Matrix(lost(shrunk=100)), MOVING, Matrix(lost(100))), [RULE])
    assert [finding.modules for finding in found] == [("0", "3"), ("1",)]
    assert "lost to rounding" in found[0].message
    assert "2**-25" in found[0].cause
    assert "factor of 100" in found[1].message
    assert_well_said(found)


def test_what_both_lose_adds_up():
    assert the_finding(stepped(Matrix(lost(30, 25)), MOVING), RULE).evidence["percent_stalled"] == pytest.approx(55.0)


def test_only_matrices_are_judged():
    assert RULE.check(stepped(Matrix(lost(100), shape=(100,)), MOVING)) == []


def test_a_model_that_has_converged_is_only_worth_knowing():
    recording = stepped(Matrix(lost(100)), Matrix(lost(100)), slope=0.9e-3)
    finding = the_finding(recording, RULE)
    assert (finding.severity, finding.modules) == (INFO, ("0", "1"))
    assert "converged" in finding.cause
    assert loss_slope(recording) == pytest.approx(0.9e-3)
    assert the_finding(stepped(Matrix(lost(100)), slope=1.1e-3), RULE).severity is ERROR


@pytest.mark.parametrize("exact", [False, True])
def test_a_rate_of_zero_is_not_an_alarm(exact):
    assert RULE.check(stepped(Matrix(lost(0 if exact else 100, rate=0.0, exact=exact)))) == []


def test_of_an_optimizer_that_is_not_known_the_weights_that_stay_are_counted():
    finding = the_finding(stepped(Matrix(lost(100, exact=False)), MOVING), RULE)
    assert (finding.severity, finding.modules) == (ERROR, ("0",))
    finding = the_finding(stepped(Matrix(lost(100, rate=0.01, full_rate=0.1, exact=False)), MOVING), RULE)
    assert finding.severity is INFO
    assert "schedule" in finding.cause


def test_in_16_bits_master_weights_are_the_first_remedy():
    finding = the_finding(stepped(Matrix(lost(100), dtype="bfloat16")), RULE)
    assert "float32" in finding.remedies[0]
    assert "2**-9" in finding.cause


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        (chain([Step()]), "pass optimizer= to diagnose()"),
        (chain([Step()], context=Context(cotangent="random", optimizer="SGD")), "pass loss="),
        (chain([Step()], context=Context(cotangent="loss", optimizer="LBFGS")), "could not be observed"),
    ],
)
def test_without_a_step_it_does_not_apply_and_says_why(recording, words):
    verdict = RULE.check(recording)
    assert isinstance(verdict, NotApplicable)
    assert words in verdict.reason


# --- real networks --------------------------------------------------------------------------------------------------


def _mlp(num_layers, width=64, seed=0):
    torch.manual_seed(seed)
    layers = [layer for _ in range(num_layers - 1) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _mse(output):
    return (output - 1.0).square().mean()


def _seen(model, make, inputs=None, loss=_mse):
    inputs = broken.gaussian(32, model[0].in_features) if inputs is None else inputs
    return observe(Problem(model, inputs, loss=loss, optimizer=make(model.parameters())))


def _sgd(parameters, rate=1e-3):
    return torch.optim.SGD(parameters, rate)


def _adam(parameters, rate=1e-3):
    return torch.optim.Adam(parameters, rate)


def _relative_steps(num_layers, rate=1e-3):
    """What SGD (exactly) and Adam (in float32) do to the first layer, relative to its weights: medians of five seeds."""
    sgd, adam = [], []
    for seed in range(5):
        recording = _seen(_mlp(num_layers, seed=seed), _adam)
        first = layer_steps(recording)[0]
        gradient = next(s for s in recording.select("weight_gradient") if s.parameter == "0.weight")
        sgd.append(rate * gradient.stats.rms / first.weight.stats.rms)
        adam.append(first.update.stats.rms / first.weight.stats.rms)
    return sorted(sgd)[2], sorted(adam)[2]


def test_published_ten_gelu_layers_stall_under_sgd_and_not_under_adam():
    # Of 20 seeds: SGD 7e-9 to 2e-8 (half an ulp is 3e-8 to 6e-8), Adam 1.3e-2, which is 1e-3 over the weights' deviation.
    sgd, adam = _relative_steps(10)
    assert 5e-9 < sgd < 3e-8
    assert 1.2e-2 < adam < 1.5e-2
    assert the_finding(_seen(_mlp(10), _sgd), RULE).modules[0] == "0"
    assert RULE.check(_seen(_mlp(10), _adam)) == []


def test_published_at_twenty_layers_eps_takes_more_than_three_decades_of_adams_step():
    sgd, adam = _relative_steps(20)  # of 20 seeds: 2e-14 to 1e-13, and 2e-6 to 1e-5
    assert 1e-14 < sgd < 1e-13
    assert 1e-6 < adam < 1e-5
    finding = the_finding(_seen(_mlp(20), _adam), RULE)
    assert (finding.severity, finding.modules[0]) == (ERROR, "0")
    assert "eps = 1e-08" in finding.cause


def test_a_smaller_eps_mends_it():
    assert RULE.check(_seen(_mlp(20), lambda p: torch.optim.Adam(p, 1e-3, eps=1e-16))) == []


def test_weight_decay_does_not_hide_it():
    found = findings(_seen(_mlp(20), lambda p: torch.optim.SGD(p, 1e-3, weight_decay=1e-2)), [RULE])
    assert [(f.severity, f.modules[0]) for f in found] == [(ERROR, "0")]
    assert float(found[0].evidence["percent_unchanged"]) < 5.0


def test_small_rates_stall_bfloat16_weights_and_not_float32_ones():
    def seen(dtype):
        model = broken.plain(nn.ReLU, 4, 64, broken.he).to(dtype)
        return _seen(model, lambda p: _adam(p, 1e-5), broken.gaussian(32, 64).to(dtype))

    assert RULE.check(seen(torch.float32)) == []
    finding = the_finding(seen(torch.bfloat16), RULE)
    assert finding.severity >= WARNING
    assert "lost to rounding" in finding.message
    assert "as long as its learning rate 1e-05" in finding.cause
    assert "float32" in finding.remedies[0]
    assert finding.evidence["percent_rounded"] == pytest.approx(finding.evidence["percent_unchanged"], abs=1.0)


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad", "Adadelta"])
def test_other_optimizers_are_judged_by_what_does_not_change(name):
    make = getattr(torch.optim, name)
    assert RULE.check(_seen(_mlp(4), lambda p: make(p, 1e-2))) == []
    finding = the_finding(_seen(_mlp(4), lambda p: make(p, 1e-30)), RULE)
    assert finding.severity is ERROR


MAKERS = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-2),
    "momentum": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, weight_decay=1e-4),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3),
}
HEALTHY = {
    "LoRA": (healthy.Lora, broken.gaussian(16, 16)),
    "ReZero": (lambda: healthy.residual(scale=0.0), broken.gaussian(64, 16)),
    "LayerScale": (lambda: healthy.residual(num_blocks=20, scale=1e-6), broken.gaussian(64, 16)),
    "pre-norm shortcuts": (healthy.residual, broken.gaussian(64, 16)),
    "Fixup": (healthy.fixup, broken.gaussian(64, 16)),
    "zero gamma": (healthy.zero_gamma, broken.gaussian(4, 3, 8, 8)),
    "adaLN-Zero": (healthy.AdaptiveNormZero, (broken.gaussian(8, 16), broken.gaussian(8, 4))),
    "experts": (healthy.SparseExperts, broken.gaussian(64, 8)),
    "causal attention": (healthy.CausalAttention, broken.gaussian(4, 5, 8)),
    "one key": (healthy.AttentionOverOneKey, broken.gaussian(4, 1, 8)),
    "squeeze and excitation": (healthy.SqueezeExcite, broken.gaussian(4, 3, 16, 16)),
    "convolutions": (healthy.convolutional, broken.gaussian(8, 3, 32, 32)),
    "bias before BatchNorm": (healthy.batch_normalised, broken.gaussian(64, 32)),
    "He": (lambda: broken.plain(nn.ReLU, 34, 128, broken.he), broken.gaussian(32, 128)),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(1000, 16), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)),
        torch.arange(128).view(32, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("optimizer", MAKERS)
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_no_alarm(name, optimizer):
    torch.manual_seed(0)
    make, inputs = HEALTHY[name]
    assert alarms(findings(_seen(make(), MAKERS[optimizer], inputs), [RULE])) == []


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_fit_whose_residual_stays_is_no_alarm_though_every_layer_stalls(optimizer):
    # At the least-squares solution the gradients of the samples cancel, the slope of the loss does not vanish.
    inputs, targets = broken.gaussian(64, 8).double(), broken.gaussian(64, 3).double().flip(0)
    model = nn.Sequential(nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.linalg.lstsq(inputs, targets).solution.T)
    recording = _seen(model, MAKERS[optimizer], inputs, lambda output: (output - targets).square().mean())
    assert loss_slope(recording) > 0.1
    assert cancellation_decades(recording, layer_steps(recording)[0]) > 10.0
    finding = the_finding(recording, RULE)
    assert finding.severity is INFO
    assert "cancel" in finding.cause


def test_samples_that_have_nothing_to_do_with_one_another_cancel_by_no_decade():
    torch.manual_seed(0)
    for model, inputs in (
        (nn.Sequential(nn.Linear(64, 64)), broken.gaussian(256, 64)),
        (nn.Sequential(nn.Conv2d(8, 8, 3)), broken.gaussian(16, 8, 12, 12)),
    ):
        recording = observe(
            Problem(model, inputs, loss=lambda y: (y * torch.randn_like(y)).mean(), optimizer=_sgd(model.parameters()))
        )
        assert abs(cancellation_decades(recording, layer_steps(recording)[0])) < 0.6


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_classifier_that_has_learnt_everything_is_no_alarm(optimizer):
    torch.manual_seed(0)
    inputs = torch.eye(8) * 4.0
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[:8] = torch.eye(8)
        model[2].weight[:, :8] = 40.0 * torch.eye(8)
    found = findings(_seen(model, MAKERS[optimizer], inputs, lambda y: nn.functional.cross_entropy(y, torch.arange(8))))
    assert alarms(found) == []
    assert [(f.code, f.severity) for f in found if f.code == "HW301"] == [("HW301", INFO)]


def test_a_schedule_that_begins_small_is_no_alarm():
    model = broken.plain(nn.ReLU, 4, 64, broken.he)

    def make(parameters, factor):
        optimizer = torch.optim.SGD(parameters, 0.1)
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor)
        return optimizer

    for factor in (0.0, 1e-8):
        assert RULE.check(_seen(model, lambda p, factor=factor: make(p, factor))) == []
    assert the_finding(_seen(model, lambda p: torch.optim.SGD(p, 1e-9)), RULE).severity >= WARNING


def test_momentum_that_has_not_built_up_is_taken_into_account():
    # The step is a third of half an ulp of one; after some steps momentum makes it three times that.
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    nn.init.ones_(model[0].weight)
    inputs = torch.full((1, 8), 2.0**-25 / 3.0)
    plain = _seen(model, lambda p: torch.optim.SGD(p, 1.0), inputs, lambda y: y.sum())
    assert the_finding(plain, RULE).severity is ERROR
    assert RULE.check(_seen(model, lambda p: torch.optim.SGD(p, 1.0, momentum=0.9), inputs, lambda y: y.sum())) == []


@pytest.mark.parametrize("is_fresh", [False, True])
@pytest.mark.parametrize("name", ["momentum", "AdamW", "RMSprop"])
def test_a_network_that_was_trained_on_digits_is_no_alarm(name, is_fresh):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images[:128] / 16.0, dtype=torch.float32), torch.tensor(labels[:128])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *broken.plain(nn.ReLU, 3, 64))
    broken.initialize(model, broken.he)
    optimizer = MAKERS[name](model.parameters())
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    optimizer = MAKERS[name](model.parameters()) if is_fresh else optimizer
    problem = Problem(model, inputs, targets, nn.CrossEntropyLoss(), optimizer)
    assert alarms(findings(observe(problem))) == []
