from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import NotApplicable, Severity
from headwater.recording import RecordingBuilder, merge
from headwater.rules import ShatteredGradient
from headwater.theory.shattering import gradient_correlation, gradient_correlation_with_shortcuts
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import assert_well_said, the_finding

RULE = ShatteredGradient()


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normal(variance):
    return lambda weight: nn.init.normal_(weight, std=math.sqrt(variance / weight.shape[1]))


def plain(activation, num_layers, width, init, *, normalised=False):
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        linear = nn.Linear(width, width, bias=False)
        init(linear.weight)
        layers += [linear, *([nn.BatchNorm1d(width)] if normalised else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def check(model, inputs, **options):
    return RULE.check(observe(Problem(model, inputs), samples=16, **options))


# --- by hand --------------------------------------------------------------------------------------------------------


def recorded(num_layers, *, near=1.0, far=1.0, error=0.0, num_pairs=16, points=(1.0 - 2.0**-21, 0.99)):
    """A chain of linear layers whose near and far correlations, of so many pairs, have this mean and error."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    top = builder.add_call(root)
    for number in range(num_layers):
        module = builder.add_module(str(number), "Linear", parent=root)
        builder.add_call(module, parent=top)
        builder.add_parameter(module, f"{number}.weight", shape=(4, 4))
    for name, mean, own in (("1024th", near, points[0]), ("8th", far, points[1])):
        squares = num_pairs * mean**2 + error**2 * num_pairs * (num_pairs - 1)
        values = [num_pairs, num_pairs * mean, squares, num_pairs * own]
        builder.add_series(f"gradient_correlation_at_{name}", values, module=1, depth=1)
    return builder.build()


def test_what_a_thousandth_of_the_way_decides_is_found_at_any_depth():
    finding = the_finding(recorded(5, near=0.1, error=0.05), RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("0",))
    assert_well_said([finding])
    assert finding.evidence["correlation"] == pytest.approx(0.1)
    assert finding.evidence["correlation_error"] == pytest.approx(0.05)
    assert finding.evidence["num_layers"] == 4


def test_a_correlation_that_may_be_above_one_over_e_by_chance_is_no_finding():
    assert RULE.check(recorded(5, near=0.36, error=0.003)) != []
    assert RULE.check(recorded(5, near=0.36, error=0.005)) == []


def test_an_eighth_of_the_way_counts_only_where_theory_has_lost_the_gradient_too():
    assert gradient_correlation(0.99, 75) > 0.1 > gradient_correlation(0.99, 76)
    assert RULE.check(recorded(76, far=0.05)) == []
    finding = the_finding(recorded(79, far=0.05), RULE)
    assert_well_said([finding])
    assert finding.evidence["expected_correlation_plain"] == gradient_correlation(0.99, 78)
    shortcuts = gradient_correlation_with_shortcuts(0.99, 78, 78**-0.5)
    assert finding.evidence["expected_correlation_with_shortcuts"] == shortcuts > 0.9


def test_samples_that_were_not_compared_are_not_judged():
    assert isinstance(RULE.check(recorded(5, num_pairs=1)), NotApplicable)
    silent = RULE.check(observe(Problem(plain(nn.Tanh, 3, 8, normal(1.0)), gaussian(8, 8))))
    assert isinstance(silent, NotApplicable)
    assert "samples=16" in silent.reason
    single = check(plain(nn.Tanh, 3, 8, normal(1.0)), gaussian(1, 8))
    assert isinstance(single, NotApplicable)
    assert "one sample" in single.reason


def test_merged_recordings_are_judged_from_all_their_pairs():
    finding = the_finding(merge(*[recorded(5, near=0.2, error=0.1)] * 9), RULE)  # 0.2 + 2 * 0.1 alone is too much
    assert finding.evidence["num_pairs"] == 144
    assert RULE.check(recorded(5, near=0.2, error=0.1)) == []


# --- broken ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "100 layers of batch norm and ReLU": (lambda: plain(nn.ReLU, 100, 64, broken.he, normalised=True), (32, 64)),
    "50 layers of batch norm and ReLU": (lambda: plain(nn.ReLU, 50, 64, broken.he, normalised=True), (32, 64)),
    "60 chaotic tanh layers": (lambda: plain(nn.Tanh, 60, 64, normal(4.0)), (32, 64)),
    "60 wide chaotic tanh layers": (lambda: plain(nn.Tanh, 60, 256, normal(4.0)), (32, 256)),
    "120 wide He-ReLU layers": (lambda: plain(nn.ReLU, 120, 512, broken.he), (32, 512)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_a_shattered_network_is_found_at_its_first_layer(name, seed):
    make, shape = BROKEN[name]
    torch.manual_seed(seed)
    (finding,) = check(make(), gaussian(*shape, seed=seed))
    assert (finding.severity, finding.modules[0]) == (Severity.WARNING, "0")
    assert_well_said([finding])


def test_the_loss_has_no_part_in_it():
    torch.manual_seed(0)
    model, x = plain(nn.Tanh, 60, 64, normal(4.0)), gaussian(32, 64)
    found = [
        RULE.check(observe(Problem(model, x, loss=lambda y, s=scale: s * y.square().mean()), samples=16))
        for scale in (1e-12, 1.0, 1e12)
    ]
    assert found[0] == found[1] == found[2] != []


# --- healthy --------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + branch(x) / sqrt(number of blocks), 100 times."""

    def __init__(self, width=64, num_blocks=100):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(num_blocks))
        self.head = nn.Linear(width, 10)
        for branch in self.branches:
            broken.he(branch[0].weight)

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x) / len(self.branches) ** 0.5
        return self.head(x)


HEALTHY = {
    "34 He-ReLU layers": (lambda: plain(nn.ReLU, 34, 128, broken.he), (32, 128)),
    "20 layers of batch norm and ReLU": (healthy.batch_normalised, (32, 32)),
    "17 x tanh of width 5": (partial(broken.plain, nn.Tanh, 17, 5, nn.init.kaiming_uniform_), (64, 5)),
    "20 tanh layers with gain 5/3": (lambda: plain(nn.Tanh, 20, 64, normal(25 / 9)), (32, 64)),
    "100 scaled shortcuts": (Residual, (32, 64)),
    "50 normalised shortcuts": (partial(healthy.residual, 50), (32, 16)),
    "100 tanh layers on the edge": (lambda: plain(nn.Tanh, 100, 64, normal(1.0)), (32, 64)),
    "two layers": (lambda: plain(nn.ReLU, 2, 16, broken.he), (32, 16)),
    "zero gamma": (healthy.zero_gamma, (8, 3, 8, 8)),
    "squeeze and excite": (healthy.SqueezeExcite, (8, 3, 8, 8)),
    "a small VGG": (healthy.convolutional, (8, 3, 32, 32)),
    "all gradients zero": (lambda: broken.zeroed(nn.Linear(8, 8)), (8, 8)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_network_that_trains_is_no_finding(name, seed):
    make, shape = HEALTHY[name]
    torch.manual_seed(seed)
    assert check(make(), gaussian(*shape, seed=seed)) == []


@pytest.mark.parametrize(
    "name",
    [
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "BertForMaskedLM",
        "ViTForImageClassification",
        "ResNetForImageClassification",
    ],
)
def test_transformers_and_residual_networks_are_no_finding(name):
    torch.manual_seed(0)
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)
    assert check(model_type.build(), model_type.inputs()) == []


def test_a_network_is_no_finding_during_its_training_and_at_its_ceiling():
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:256] / 16.0, dtype=torch.float32), torch.tensor(targets[:256])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *plain(nn.ReLU, 8, 64, broken.he, normalised=True))
    optimizer, loss = torch.optim.Adam(model.parameters(), 3e-3), nn.CrossEntropyLoss()
    for step in range(201):
        if step % 50 == 0:
            assert RULE.check(observe(Problem(model, x, y, loss), samples=16)) == []
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.99
