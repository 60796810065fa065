from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.capture.spread import relative_spread
from headwater.findings import NotApplicable, Severity
from headwater.rules import RankCollapse
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import assert_well_said, the_finding

RULE = RankCollapse()
INPUTS = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def mlp(num_layers, activation=nn.Tanh, gain=1.0, bias=0.0):
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        linear = nn.Linear(16, 16)
        nn.init.xavier_normal_(linear.weight, gain=gain)
        nn.init.normal_(linear.bias, std=bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers, nn.Linear(16, 2))


def check(model, inputs=INPUTS):
    return RULE.check(observe(Problem(model, inputs)))


@pytest.mark.parametrize(("num_layers", "severity"), [(12, Severity.WARNING), (40, Severity.ERROR)])
def test_small_weights_beside_biases_make_all_samples_one(num_layers, severity):
    model = mlp(num_layers, gain=0.5, bias=1.0)
    recording = observe(Problem(model, INPUTS))
    finding = the_finding(recording, RULE)
    assert finding.severity is severity
    assert_well_said([finding])
    hidden = model[:-2](INPUTS).double()
    spread = ((hidden - hidden.mean(0)).square().sum() / hidden.square().sum()).sqrt().item()
    assert finding.evidence["spread_at_end"] == pytest.approx(spread, rel=0.01)


class PureAttention(nn.Module):
    def __init__(self, *, with_shortcut):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.head = nn.Linear(16, 2)
        self.with_shortcut = with_shortcut

    def forward(self, x):
        for layer in self.layers:
            mixed = (x @ x.mT / 16.0).softmax(-1) @ layer(x)
            x = x + mixed if self.with_shortcut else mixed
        return self.head(x)


def test_attention_without_shortcuts_collapses_and_with_them_does_not():
    inputs = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert [finding.code for finding in check(PureAttention(with_shortcut=False), inputs)] == ["HW204"]
    torch.manual_seed(0)
    assert check(PureAttention(with_shortcut=True), inputs) == []


def test_a_batch_of_one_sample_repeated_is_no_finding():
    assert check(mlp(12), INPUTS[:1].repeat(8, 1)) == []


def test_one_sample_is_not_judged():
    assert isinstance(check(mlp(3), INPUTS[:1]), NotApplicable)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(20),
        lambda: mlp(20, nn.ReLU, 2.0**0.5),
        lambda: healthy.residual(width=16),
        lambda: healthy.batch_normalised(20, 16),
    ],
)
def test_healthy_networks_keep_their_samples_apart(make):
    torch.manual_seed(0)
    assert check(make()) == []


@pytest.mark.parametrize(
    "name",
    [
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "BertForMaskedLM",
        "ViTForImageClassification",
        "T5ForConditionalGeneration",
    ],
)
def test_transformers_keep_their_positions_apart(name):
    torch.manual_seed(0)
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)
    assert check(model_type.build(), model_type.inputs()) == []


def test_the_spread_of_rows_in_plain_numbers():
    rows = torch.tensor([[3.0, 1.0], [3.0, -1.0]])
    assert relative_spread(rows) == pytest.approx(2.0 / 20.0)
    assert relative_spread(rows[None]) == pytest.approx(2.0 / 20.0)
    assert relative_spread(torch.zeros(4, 2)) is None
    assert relative_spread(torch.tensor([[float("nan"), 1.0], [1.0, 1.0]])) is None
    assert relative_spread(torch.ones(3)) is None
