"""Real networks, recorded: each broken one is found, by its code, its severity and its module, and no healthy one is."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.capture import Problem, ProblemError, observe, record
from headwater.findings import Severity
from headwater.networks import DeepNeuralNetwork
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import alarms, assert_well_said, findings

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR
SAMPLES = broken.gaussian(64, 8)
classify = nn.CrossEntropyLoss()


def _square(output):
    return output.square().mean()


def _square_from_one(output):
    return (output - 1.0).square().mean()


def _judged(model, inputs, targets=None, loss=None):
    found = findings(observe(Problem(model, inputs, targets, loss)))
    assert_well_said(found)
    return found


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:128] / 16.0, dtype=torch.float32), torch.tensor(labels[:128])


def _digits_network(init, num_layers=34, width=128):
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), *broken.plain(nn.ReLU, num_layers - 1, width))
    broken.initialize(model, init)
    return model


# --- broken ---------------------------------------------------------------------------------------------------------


def test_a_20_layer_sigmoid_network_on_digits_vanishes_and_its_sigmoids_are_to_blame(digits):
    finding, forward = _judged(broken.plain(nn.Sigmoid, 20, 64), *digits, classify)
    assert (finding.code, finding.severity, finding.modules[0]) == ("HW101", ERROR, "0")
    assert forward.code == "HW204"  # and all digits look the same to it
    assert re.match(r"Sigmoid's derivative costs 1\d\.\d of 1\d\.\d decades over 19 calls, Linear", finding.cause)


def test_a_34_layer_glorot_network_on_digits_vanishes_although_its_weight_gradients_are_nearly_equal(digits):
    recording = observe(Problem(_digits_network(nn.init.xavier_uniform_), *digits, classify))
    first, last = (
        s.stats.norm for s in recording.select("weight_gradient") if s.parameter in ("0.weight", "66.weight")
    )
    assert first / last > 0.1  # what a rule on weight gradients would look at
    finding, forward = findings(recording)
    assert (finding.code, finding.severity) == ("HW101", WARNING)
    assert "kaiming" in finding.remedies[0]
    assert (forward.code, forward.severity) == ("HW203", WARNING)  # the signal dies out by the same factor


def test_the_notebooks_plain_network_is_worth_knowing_and_its_shortcuts_are_fine():
    for use_shortcut, codes in ((False, [("HW101", INFO)]), (True, [])):
        torch.manual_seed(123)
        model = DeepNeuralNetwork([3, 3, 3, 3, 3, 1], use_shortcut)
        found = _judged(model, torch.tensor([[1.0, 0.0, -1.0]]), torch.zeros(1, 1), nn.MSELoss())
        assert [(finding.code, finding.severity) for finding in found] == codes


def test_sigmoids_that_are_no_modules_are_named_with_their_line():
    finding, forward = _judged(broken.FunctionalSigmoids(), broken.gaussian(16, 32))
    assert (finding.code, finding.severity, forward.code) == ("HW101", ERROR, "HW204")
    assert finding.cause.startswith("torch.sigmoid's derivative costs 12")
    assert [line.code for line in finding.lines] == ["x = torch.sigmoid(layer(x))"]
    assert "Replace torch.sigmoid" in finding.remedies[0]


def test_without_operations_functional_sigmoids_are_found_between_the_modules():
    model = broken.FunctionalSigmoids()
    with record(model) as recorder:
        model(broken.gaussian(16, 32)).sum().backward()
    (finding,) = [f for f in findings(recorder.recording) if f.code == "HW101"]
    assert "operations between the modules" in finding.cause
    assert finding.lines == ()


def _nan_weight():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    return model


def _nan_input():
    inputs = SAMPLES.clone()
    inputs[0, 0] = math.nan
    return inputs


BROKEN = {
    "acos at one": (
        lambda: _judged(nn.Sequential(nn.Linear(8, 8), broken.Apply(broken.acos_of_ones), nn.Linear(8, 1)), SAMPLES),
        [("HW104", ERROR, "1")],
    ),
    "normalised near zero": (
        lambda: _judged(
            nn.Sequential(
                broken.zeroed(nn.Linear(8, 8)), broken.Apply(lambda x: F.normalize(x, dim=-1)), nn.Linear(8, 1)
            ),
            SAMPLES,
        ),
        [("HW102", ERROR, "1")],
    ),
    "sqrt behind a rectifier that masks it": (
        lambda: _judged(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), broken.Apply(torch.sqrt)), SAMPLES, loss=_square),
        [("HW104", WARNING, "2")],
    ),
    "a fully masked row that the loss drops": (
        lambda: _judged(broken.Masked(8), broken.gaussian(4, 5, 8), loss=lambda output: _square(output[:, 1:])),
        [("HW104", ERROR, "attention")],
    ),
    "exponentials": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), broken.Apply(broken.thrice_exponential), nn.Linear(8, 1)),
            3 * SAMPLES,
            loss=_square,
        ),
        [("HW104", ERROR, "1")],
    ),
    "log of a rectifier": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), broken.Apply(torch.log), nn.Linear(8, 1)), SAMPLES, loss=_square
        ),
        [("HW104", ERROR, "2")],
    ),
    "a weight that is NaN": (lambda: _judged(_nan_weight(), SAMPLES, loss=_square), [("HW104", ERROR, "0")]),
    "data that are NaN": (
        lambda: _judged(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)), _nan_input(), loss=_square),
        [("HW104", ERROR, "")],
    ),
    "detached": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), broken.Apply(lambda x: x.tanh().detach()), nn.Linear(8, 1)), SAMPLES
        ),
        [("HW401", ERROR, "1")],
    ),
    "detached between modules": (lambda: _judged(broken.DetachedInForward(), SAMPLES), [("HW401", ERROR, "")]),
    "without gradients": (lambda: _judged(broken.NoGradEncoder(), SAMPLES), [("HW401", ERROR, "encoder")]),
    "argmax": (lambda: _judged(broken.ArgmaxInTheMiddle(), SAMPLES), [("HW401", ERROR, "choose")]),
    "unused": (
        lambda: _judged(broken.UnusedBranch(), SAMPLES),
        [("HW401", WARNING, "forgotten"), ("HW401", WARNING, "ignored")],
    ),
    "all units dead": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), broken.with_bias(nn.Linear(8, 8), -100.0), nn.ReLU(), nn.Linear(8, 1)),
            SAMPLES,
        ),
        [("HW103", ERROR, "2"), ("HW201", ERROR, "2")],
    ),
    "dead without a module": (
        lambda: _judged(broken.FunctionalDeadRectifier(), SAMPLES),
        [("HW103", ERROR, "dead"), ("HW201", ERROR, "")],
    ),
    "saturated sigmoid": (
        lambda: _judged(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 1)), 1e4 * SAMPLES),
        [("HW101", ERROR, "0"), ("HW202", ERROR, "1")],
    ),
    "saturated tanh": (
        lambda: _judged(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)), 1e4 * SAMPLES),
        [("HW103", ERROR, "1"), ("HW202", ERROR, "1")],
    ),
    "softmax of one unit": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), nn.Softmax(dim=-1)),
            SAMPLES,
            torch.full((64, 1), 0.3),
            nn.BCELoss(),
        ),
        [("HW103", ERROR, "3")],
    ),
    "functional softmax of one unit": (
        lambda: _judged(broken.FunctionalSoftmaxOfOneUnit(), SAMPLES, torch.full((64, 1), 0.3), nn.MSELoss()),
        [("HW103", ERROR, "head")],
    ),
    "cross-entropy of one logit": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)),
            SAMPLES,
            torch.zeros(64, dtype=torch.long),
            classify,
        ),
        [("HW103", ERROR, "")],
    ),
    "all weights zero": (
        lambda: _judged(
            broken.zeroed(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))),
            SAMPLES,
            torch.ones(64, 1),
            nn.MSELoss(),
        ),
        [("HW103", ERROR, "4")],
    ),
    "one layer's weights zero": (
        lambda: _judged(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), broken.zeroed(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 1)),
            SAMPLES,
            torch.ones(64, 1),
            nn.MSELoss(),
        ),
        [("HW103", WARNING, "2")],
    ),
    "two layers' weights zero": (
        lambda: _judged(
            nn.Sequential(
                nn.Linear(8, 8),
                nn.Tanh(),
                broken.zeroed(nn.Linear(8, 8)),
                nn.Tanh(),
                broken.zeroed(nn.Linear(8, 1)),
            ),
            SAMPLES,
            torch.ones(64, 1),
            nn.MSELoss(),
        ),
        [("HW103", ERROR, "4")],
    ),
    "a scale of zero of a branch that ends with zeros": (
        lambda: _judged(healthy.residual_of_zeros(), broken.gaussian(16, 16)),
        [("HW103", ERROR, "1.branch")],
    ),
    "rounded": (
        lambda: _judged(nn.Sequential(nn.Linear(8, 8), broken.Apply(torch.round), nn.Linear(8, 1)), SAMPLES),
        [("HW103", ERROR, "1")],
    ),
    "large shortcut branches": (
        lambda: _judged(broken.ExplodingShortcuts(), broken.gaussian(32, 64)),
        [("HW102", ERROR, "layers.0"), ("HW203", WARNING, "layers.11")],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_network_is_found(name):
    judge, expected = BROKEN[name]
    assert [(code, severity, modules[0]) for code, severity, modules in alarms(judge())] == expected


@pytest.mark.parametrize(
    ("make", "inputs", "when"),
    [
        (lambda: healthy.residual(scale=0.0), broken.gaussian(64, 16), "one step"),
        (healthy.skip_init, broken.gaussian(64, 16), "one step"),
        (healthy.fixup, broken.gaussian(64, 16), "two steps"),
        (healthy.zero_gamma, broken.gaussian(4, 3, 8, 8), "one step"),
        (healthy.Lora, broken.gaussian(16, 16), "one step"),
        (healthy.LoraInReZero, broken.gaussian(16, 16), "two steps"),
        (healthy.AdaptiveNormZero, (broken.gaussian(8, 16), broken.gaussian(8, 4)), "one step"),
        (
            lambda: healthy.AdaptiveNormZero(zero_head=True),
            (broken.gaussian(8, 16), broken.gaussian(8, 4)),
            "two steps",
        ),
    ],
)
@pytest.mark.parametrize("loss", [_square_from_one, None])
def test_a_zero_that_ends_is_said_to_end_as_a_fact(make, inputs, when, loss):
    found = _judged(make(), inputs, loss=loss)
    assert alarms(found) == []
    zeros = [finding for finding in found if finding.code == "HW103"]
    assert zeros
    for finding in zeros:
        assert finding.severity is INFO
        assert f"becomes non-zero after {when} of training (tried on this batch)" in finding.cause


@pytest.mark.parametrize(
    "name", ["two layers' weights zero", "a scale of zero of a branch that ends with zeros", "all weights zero"]
)
def test_a_zero_that_does_not_end_is_said_not_to(name):
    judge, _ = BROKEN[name]
    (finding,) = [finding for finding in judge() if finding.code == "HW103"]
    assert finding.cause.endswith("Two steps of training, tried on this batch, do not change it.")


def test_a_plain_network_that_waits_for_a_step_is_told_that_it_ends():
    judge, _ = BROKEN["one layer's weights zero"]
    (finding,) = [finding for finding in judge() if finding.code == "HW103"]
    assert "becomes non-zero after one step of training (tried on this batch)" in finding.cause


def test_a_zero_weight_that_the_optimiser_does_not_hold_is_not_said_to_heal():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), broken.zeroed(nn.Linear(8, 1)))
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    recording = observe(Problem(model, SAMPLES, torch.ones(64, 1), nn.MSELoss(), optimizer))
    finding = next(finding for finding in findings(recording) if finding.code == "HW103")
    assert finding.severity is WARNING
    assert "the optimiser does not hold it" in finding.cause


def test_four_of_eight_dead_units_are_four_of_eight():
    dead = broken.with_bias(nn.Linear(8, 8), -100.0, slice(4))
    (finding,) = _judged(nn.Sequential(nn.Linear(8, 8), dead, nn.ReLU(), nn.Linear(8, 1)), SAMPLES)
    assert (finding.code, finding.severity, finding.modules) == ("HW201", WARNING, ("2",))
    assert (finding.evidence["num_dead"], finding.evidence["num_units"]) == (4, 8)


def test_a_gradient_that_vanishes_until_it_underflows_is_both():
    found = _judged(broken.plain(nn.Sigmoid, 150, 16), broken.gaussian(8, 16))
    assert [finding.code for finding in found] == ["HW101", "HW103", "HW204"]
    assert "smallest number" in found[1].cause


def test_a_recurrent_cell_that_forgets_is_found_in_a_loop_of_calls():
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(4, 16)
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            hidden = torch.zeros(x.shape[0], 16)
            for step in x.unbind(1):
                hidden = self.cell(step, hidden)
            return self.head(hidden)

    assert [(f.code, f.severity) for f in _judged(Unrolled(), broken.gaussian(8, 60, 4))] == [("HW101", ERROR)]


# --- healthy --------------------------------------------------------------------------------------------------------

LABELS = torch.zeros(64, dtype=torch.long)
HEALTHY = {
    "LoRA": lambda: _judged(healthy.Lora(), broken.gaussian(16, 16)),
    "LoRA, update first": lambda: _judged(healthy.Lora(update_first=True), broken.gaussian(16, 16)),
    "ReZero": lambda: _judged(healthy.residual(scale=0.0), broken.gaussian(64, 16)),
    "LayerScale": lambda: _judged(healthy.residual(num_blocks=20, scale=1e-6), broken.gaussian(64, 16)),
    "pre-norm shortcuts": lambda: _judged(healthy.residual(), broken.gaussian(64, 16)),
    "Fixup": lambda: _judged(healthy.fixup(), broken.gaussian(64, 16)),
    "zero gamma": lambda: _judged(healthy.zero_gamma(), broken.gaussian(4, 3, 8, 8)),
    "adaLN-Zero": lambda: _judged(healthy.AdaptiveNormZero(), (broken.gaussian(8, 16), broken.gaussian(8, 4))),
    "adaLN-Zero with a zero head": lambda: _judged(
        healthy.AdaptiveNormZero(zero_head=True),
        (broken.gaussian(8, 16), broken.gaussian(8, 4)),
        loss=lambda output: _square(output - 1.0),
    ),
    "experts not called": lambda: _judged(healthy.SparseExperts(), SAMPLES),
    "experts multiplied by zero": lambda: _judged(healthy.DenseExperts(), SAMPLES),
    "experts called for nobody": lambda: _judged(healthy.EmptyExperts(), SAMPLES),
    "stochastic depth": lambda: _judged(healthy.DroppedBranches(), SAMPLES),
    "causal attention": lambda: _judged(healthy.CausalAttention(), broken.gaussian(4, 5, 8)),
    "attention over one key": lambda: _judged(healthy.AttentionOverOneKey(), broken.gaussian(4, 1, 8)),
    "forbidden actions": lambda: _judged(healthy.MaskedActions(), SAMPLES, LABELS, classify),
    "forbidden actions, no loss": lambda: _judged(healthy.MaskedActions(), SAMPLES),
    "squeeze and excitation": lambda: _judged(healthy.SqueezeExcite(), broken.gaussian(4, 3, 16, 16)),
    "an output that the loss ignores": lambda: _judged(
        healthy.AuxiliaryHead(), SAMPLES, loss=lambda outputs: _square(outputs[0]) + 0.0 * outputs[1].sum()
    ),
    "a loss inside the model": lambda: _judged(healthy.ReturnsItsLoss(), (SAMPLES, LABELS)),
    "pooled convolutions": lambda: _judged(healthy.convolutional(), broken.gaussian(8, 3, 32, 32)),
    "plain ReLU with BatchNorm": lambda: _judged(healthy.batch_normalised(), broken.gaussian(64, 32)),
    "a confident output": lambda: _judged(
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), broken.with_bias(nn.Linear(8, 1), 30.0), nn.Sigmoid()), SAMPLES
    ),
    "a margin that is met": lambda: _judged(
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), broken.with_bias(nn.Linear(8, 1), 30.0)),
        SAMPLES,
        loss=lambda output: F.relu(1.0 - output).mean(),
    ),
    "a frozen backbone": lambda: _judged(
        nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.Tanh(), nn.Linear(8, 1)), SAMPLES
    ),
    "a zero head over a frozen backbone": lambda: _judged(
        nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.Tanh(), broken.zeroed(nn.Linear(8, 1))), SAMPLES
    ),
    "a batch of one": lambda: _judged(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)), SAMPLES[:1]),
    "absent embedding rows": lambda: _judged(
        nn.Sequential(nn.Embedding(1000, 16), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)),
        torch.arange(128).view(32, 4),
    ),
    "tanh, loss times 1e8": lambda: _judged(
        broken.plain(nn.Tanh, 4, 32, nn.init.xavier_uniform_),
        broken.gaussian(64, 32),
        loss=lambda output: 1e8 * _square(output),
    ),
    "17 narrow tanh layers": lambda: _judged(_narrow_tanh(), broken.gaussian(64, 2)),
}


def _narrow_tanh():
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), *broken.plain(nn.Tanh, 16, 5, num_outputs=1))
    broken.initialize(model, nn.init.kaiming_uniform_)
    return model


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_no_alarm(name):
    assert alarms(HEALTHY[name]()) == []


@pytest.mark.parametrize("factor", [1e-6, 1.0, 65536.0])
def test_a_34_layer_he_network_on_digits_is_healthy_whatever_the_loss_is_multiplied_by(digits, factor):
    model = _digits_network(broken.he)
    assert _judged(model, *digits, lambda output, labels: factor * classify(output, labels)) == []


def test_a_trained_network_is_no_alarm(digits):
    model = _digits_network(broken.he, num_layers=6, width=64)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        classify(model(digits[0]), digits[1]).backward()
        optimizer.step()
    assert (model(digits[0]).argmax(1) == digits[1]).float().mean() > 0.95
    assert alarms(_judged(model, *digits, classify)) == []


def test_micro_batches_are_judged_together():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    with record(model) as recorder:
        for part in SAMPLES.split(1):
            _square(model(part)).backward()
    assert findings(recorder.recording) == []


def test_an_infinite_weight_is_found_although_a_plateau_hides_it():
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    (finding,) = [f for f in _judged(model, SAMPLES) if f.code == "HW104"]
    assert (finding.severity, finding.modules) == (ERROR, ("0",))


def test_a_loss_that_refuses_nan_does_not_hide_where_it_comes_from():
    model = nn.Sequential(nn.Linear(8, 8), broken.Apply(broken.thrice_exponential), nn.Linear(8, 1), nn.Sigmoid())
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        F.binary_cross_entropy(model(SAMPLES), torch.ones(64, 1))
    recording = observe(Problem(model, SAMPLES, torch.ones(64, 1), nn.BCELoss()))
    (finding,) = [f for f in findings(recording) if f.code == "HW104"]
    assert (finding.severity, finding.modules[0]) == (ERROR, "1")
    assert any("No backward pass was run" in note for note in recording.context.notes)


def test_a_loss_that_fails_for_another_reason_is_an_error_still():
    with pytest.raises(ProblemError, match="the loss failed"):
        observe(Problem(nn.Linear(8, 1), SAMPLES, torch.ones(3, 1, 1), nn.BCELoss()))
