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


# --- between the last hidden layer and the output layer --------------------------------------------------------------


class Mixed(nn.Module):
    """Hidden layers of tanh, `mix` between them and the output layer, and what `end` makes of the output."""

    def __init__(self, mix, num_hidden=2, end=lambda output, _: output):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(num_hidden))
        self.head, self.mix, self.end = nn.Linear(16, 4), mix, end

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.end(self.head(self.mix(x)), x)


SEQUENCES = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(0))
AVERAGES = {
    "kept": (lambda h: h.mean(0, keepdim=True).expand_as(h), INPUTS),
    "broadcast": (lambda h: 0 * h + h.mean(0), INPUTS),
    "times ones": (lambda h: torch.ones(len(h), len(h)) / len(h) @ h, INPUTS),
    "over samples and positions": (lambda h: h.mean((0, 1), keepdim=True).expand_as(h), SEQUENCES),
    "over samples and positions, then one": (lambda h: h.mean((0, 1)).expand(8, 16), SEQUENCES),
}


@pytest.mark.parametrize("num_hidden", [1, 2, 4])
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_over_the_batch_makes_all_samples_one(name, num_hidden):
    mix, inputs = AVERAGES[name]
    model = Mixed(mix, num_hidden)
    assert model(inputs).detach().flatten(0, -2).std(0).max() < 1e-6
    finding = the_finding(observe(Problem(model, inputs)), RULE)
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("head", f"layers.{num_hidden - 1}"))
    assert float(finding.evidence["spread_at_end"]) <= 2.0**-24
    assert_well_said([finding])


def test_one_row_that_is_made_many_only_behind_the_output_layer_is_found_too():
    model = Mixed(lambda h: h.mean(0), end=lambda output, h: output.expand(len(h), 4))
    assert the_finding(observe(Problem(model, INPUTS)), RULE).severity is Severity.ERROR


HEALTHY_MIXES = {
    "no average": (Mixed(lambda h: h), INPUTS),
    "an average over positions": (Mixed(lambda h: h.mean(1)), SEQUENCES),
    "one row that is one prediction": (Mixed(lambda h: h.mean(0, keepdim=True)), INPUTS),
    "one sequence that is repeated": (Mixed(lambda h: h.mean(1, keepdim=True).expand_as(h)), SEQUENCES[:1]),
    "samples without their mean": (Mixed(lambda h: h - h.mean(0)), INPUTS),
    "an average beside the samples": (Mixed(lambda h: h + h.mean(0)), INPUTS),
    "the batch's average behind a shortcut": (
        Mixed(lambda h: h.mean(0, keepdim=True).expand_as(h), end=lambda output, h: output + h[..., :4]),
        INPUTS,
    ),
}


@pytest.mark.parametrize("name", HEALTHY_MIXES)
def test_averages_that_keep_the_samples_apart_are_fine(name):
    assert check(*HEALTHY_MIXES[name]) == []


class ClassToken(nn.Module):
    """The head reads a token that is the same for all samples, until ReZero's scale lets their positions in."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.token, self.scale = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.tensor(scale))
        self.embed, self.value, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        x = x + self.scale * (x @ x.mT).softmax(-1) @ self.value(x)
        return self.head(x[:, 0])


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_a_class_token_that_has_not_read_its_samples_yet_is_fine(scale):
    assert check(ClassToken(scale), SEQUENCES) == []


def test_a_last_layer_that_reads_no_samples_at_all_is_fine():
    class Policy(Mixed):
        def __init__(self):
            super().__init__(lambda h: h)
            self.deviation = nn.Linear(1, 4)

        def forward(self, x):
            mean = super().forward(x)
            return self.deviation(torch.ones(len(x), 1)), mean

    assert check(Policy()) == []


def test_what_was_changed_in_place_since_it_was_read_says_nothing():
    class ThenErased(Mixed):
        def forward(self, x):
            hidden = torch.tanh(self.layers[0](x)).clone()
            output = self.head(hidden)
            hidden.zero_()
            return output

    model = ThenErased(None, 1)
    model.head.weight.requires_grad_(False)  # or autograd would refuse
    recording = observe(Problem(model, INPUTS))
    assert recording.series("relative_spread")
    assert not recording.series("relative_spread_read")
    assert RULE.check(recording) == []


def test_a_zero_head_returns_the_same_for_all_and_reads_different_ones():
    model = Mixed(lambda h: h)
    nn.init.zeros_(model.head.weight)
    assert check(model) == []
