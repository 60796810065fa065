from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import RecordingBuilder
from headwater.rules import NoisyGradient
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import alarms, assert_well_said, the_finding

RULE = NoisyGradient()
INFO, WARNING = Severity.INFO, Severity.WARNING
classify = nn.CrossEntropyLoss()


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    return torch.tensor(images[:256] / 16.0, dtype=torch.float32), torch.tensor(targets[:256])


class Noise(nn.Module):
    """Adds noise of this deviation, in training and in evaluation."""

    def __init__(self, deviation):
        super().__init__()
        self.deviation = deviation

    def forward(self, x):
        return x + self.deviation * torch.randn_like(x)


class Gate(nn.Module):
    """Multiplies each feature by noise, as variational dropout with too large a variance does."""

    def forward(self, x):
        return x * (8.0 * torch.randn_like(x)).exp()


def network(*, dropout=0.0, num_layers=3, width=64, between=None):
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(64 if not layers else width, width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
        layers += [between()] if between else []
    return nn.Sequential(*layers, nn.Linear(width, 10))


def check(model, inputs, targets=None, loss=None):
    return RULE.check(observe(Problem(model, inputs, targets, loss), samples=16))


# --- by hand --------------------------------------------------------------------------------------------------------


def recorded(*, repeated=None, sums=None, num_pairs=16, error=0.0):
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    top = builder.add_call(root)
    for number, (kind, config) in enumerate([("Linear", ""), ("Dropout", "p=0.9, inplace=False"), ("Linear", "")]):
        module = builder.add_module(str(number), kind, parent=root, config=config, training=True)
        builder.add_call(module, parent=top)
    if repeated is not None:
        squares = num_pairs * repeated**2 + error**2 * num_pairs * (num_pairs - 1)
        values = [num_pairs, num_pairs * repeated, squares]
        builder.add_series("gradient_correlation_repeated", values, module=1, depth=1)
    if sums is not None:
        for module in (1, 3):
            builder.add_series("gradient_noise_sums", sums, module=module, item="weight")
    return builder.build()


def sums(signal, noise, num_samples=64, num_slices=16):
    """The expected sums for slices of num_samples / num_slices samples."""
    length = num_samples / num_slices
    pairs = (num_slices**2 - num_slices) * length**2
    own = num_slices * length**2 * signal + num_samples * noise
    return [num_slices, num_samples, num_slices * length**2, own, pairs * signal, pairs]


def test_two_draws_with_nothing_in_common_are_a_warning_that_names_the_dropout():
    finding = the_finding(recorded(repeated=0.001, error=0.002, sums=sums(0.001, 1.0)), RULE)
    assert (finding.severity, finding.modules) == (WARNING, ("0", "1"))
    assert finding.evidence["expected_correlation"] == pytest.approx(0.1)
    assert finding.evidence["first_layer_signal_to_noise"] == pytest.approx(0.064)
    assert_well_said([finding])


def test_noise_that_the_batch_averages_out_is_only_told():
    assert the_finding(recorded(repeated=0.001, sums=sums(1.0, 10.0)), RULE).severity is INFO


def test_the_bound_is_two_standard_errors_above_the_mean():
    assert RULE.check(recorded(repeated=0.0, error=0.0049)) != []
    assert RULE.check(recorded(repeated=0.0, error=0.0051)) == []


@pytest.mark.parametrize(("signal", "severities"), [(0.0, [INFO]), (0.0015, [INFO]), (0.0016, []), (1.0, [])])
def test_a_batch_ten_times_below_the_noise_scale_is_told(signal, severities):
    found = RULE.check(recorded(sums=sums(signal, 1.0)))
    assert [finding.severity for finding in found] == severities
    assert_well_said(found)


def test_a_handful_of_samples_is_not_called_noisy():
    assert RULE.check(recorded(sums=sums(0.0, 1.0, num_samples=7, num_slices=7))) == []


def test_no_gradient_at_all_is_no_noise():
    assert RULE.check(recorded(sums=sums(0.0, 0.0))) == []


def test_where_nothing_was_looked_at_it_is_said_what_to_pass():
    for recording, reason in (
        (recorded(), "samples=16"),
        (observe(Problem(network(), gaussian(1, 64)), samples=16), "one sample"),
        (observe(Problem(network(), gaussian(8, 64)), samples=16), "no loss"),
    ):
        verdict = RULE.check(recording)
        assert isinstance(verdict, NotApplicable)
        assert reason in verdict.reason


# --- broken ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "dropout of 0.9 in three layers": partial(network, dropout=0.9),
    "dropout of 0.95 in two layers": partial(network, dropout=0.95, num_layers=2),
    "wild gates": partial(network, num_layers=4, between=Gate),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_a_network_that_drowns_its_gradient_is_found(name, seed, digits):
    torch.manual_seed(seed)
    model = BROKEN[name]()
    for found in (check(model, *(part[:64] for part in digits), classify), check(model, digits[0][:64])):
        assert alarms(found)
        assert found[0].modules[0] == "0"
        assert_well_said(found)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("dropout", "num_layers"), [(0.9, 2), (0.75, 7)])
def test_what_the_documentation_says_is_found_is_found_on_every_seed(dropout, num_layers, seed):
    torch.manual_seed(seed)
    model = network(dropout=dropout, num_layers=num_layers)
    for layer in model[:-1:3]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    inputs, targets = gaussian(256, 64, seed=seed), torch.randint(0, 10, (256,))
    (finding,) = check(model, inputs, targets, classify)
    assert float(finding.evidence["correlation_at_most"]) <= RULE.repeated


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_scale_of_the_loss_changes_nothing(factor, digits):
    torch.manual_seed(0)
    x, y = (part[:64] for part in digits)
    for model in (network(dropout=0.9), network()):
        plain, scaled = (
            check(model, x, y, lambda output, target, scale=scale: scale * classify(output, target))
            for scale in (1.0, factor)
        )
        assert [(f.severity, f.modules, f.cause) for f in plain] == [(f.severity, f.modules, f.cause) for f in scaled]


# --- healthy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("dropout", "num_layers"), [(0.1, 3), (0.5, 1), (0.5, 2), (0.5, 3), (0.5, 4), (0.8, 1), (0.2, 8)]
)
def test_usual_dropout_is_no_alarm(dropout, num_layers, seed, digits):
    torch.manual_seed(seed)
    model = network(dropout=dropout, num_layers=num_layers)
    assert alarms(check(model, *(part[:64] for part in digits), classify)) == []
    assert alarms(check(model.eval(), *(part[:64] for part in digits), classify)) == []


def test_a_network_with_dropout_is_no_alarm_during_its_training_and_at_its_ceiling(digits):
    x, y = digits
    torch.manual_seed(0)
    model = network(dropout=0.5, num_layers=3)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(401):
        if step % 50 == 0:
            assert alarms(check(model, x[:64], y[:64], classify)) == []
        optimizer.zero_grad()
        classify(model(x), y).backward()
        optimizer.step()
    assert (model.eval()(x).argmax(1) == y).float().mean() > 0.99


def test_random_labels_and_small_batches_are_no_alarm(digits):
    x, y = digits
    torch.manual_seed(0)
    model = network()
    shuffled = y[torch.randperm(len(y))]
    for size in (2, 4, 16, 256):
        assert alarms(check(model, x[:size], shuffled[:size], classify)) == []


def test_the_truth_about_digits_is_a_signal_and_about_noise_it_is_none(digits):
    torch.manual_seed(0)
    assert check(network(), *digits, classify) == []
    assert [f.severity for f in check(network(), gaussian(256, 64), torch.arange(256) % 10, classify)] == [INFO]


HEALTHY = {
    "stochastic depth": (healthy.DroppedBranches, (16, 8)),
    "experts": (healthy.SparseExperts, (16, 8)),
    "LoRA": (healthy.Lora, (16, 16)),
    "ReZero": (partial(healthy.residual, scale=0.0), (16, 16)),
    "zero gamma": (healthy.zero_gamma, (8, 3, 8, 8)),
    "noise as large as the signal": (partial(network, between=partial(Noise, 0.3)), (32, 64)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_are_no_alarm(name):
    make, shape = HEALTHY[name]
    torch.manual_seed(0)
    found = check(make(), gaussian(*shape), loss=lambda output: (output - 1.0).square().mean())
    assert isinstance(found, list)
    assert alarms(found) == []


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM", "T5ForConditionalGeneration"]
)
def test_transformers_in_training_are_no_alarm(name):
    torch.manual_seed(0)
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)
    found = check(model_type.build().train(), model_type.inputs())
    assert isinstance(found, list)
    assert alarms(found) == []


def test_the_expected_share_is_that_of_the_dropouts_after_the_first_layer(digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.2), *network(dropout=0.95, num_layers=2))
    (finding,) = check(model, digits[0][:64])
    assert finding.evidence["expected_correlation"] == pytest.approx(math.prod([0.05, 0.05]))
    assert finding.evidence["num_dropout_calls"] == 2
