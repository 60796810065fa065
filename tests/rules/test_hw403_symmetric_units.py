from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe, record
from headwater.findings import NotApplicable, Severity
from headwater.rules import SymmetricUnits
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import assert_well_said, the_finding

RULE = SymmetricUnits()
INPUTS = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))


def mlp(activation=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 2))


def check(model, inputs=INPUTS):
    return RULE.check(observe(Problem(model, inputs), lines=False))


def test_a_constant_layer_is_one_unit():
    model = mlp()
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[2].weight, 0.5)
    recording = observe(Problem(model, INPUTS), lines=False)
    finding = the_finding(recording, RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("0",)  # the second layer's rows get different gradients from the head
    assert (finding.evidence["num_units"], finding.evidence["num_groups"]) == (6, 1)
    assert_well_said([finding])


def test_the_units_it_names_really_stay_equal():
    model = mlp()
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[2].weight, 0.1)
    assert [f.modules for f in check(model)] == [("0",)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    targets = torch.randint(0, 2, (32,))
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(INPUTS), targets).backward()
        optimizer.step()
    assert (model[0].weight == model[0].weight[0]).all()


def test_copied_rows_are_named_as_so_many():
    model = mlp()
    with torch.no_grad():
        for layer in (model[0],):
            layer.weight[3:] = layer.weight[:3]
            layer.bias[3:] = layer.bias[:3]
        model[2].weight[:, 3:] = model[2].weight[:, :3]
    (finding,) = check(model)
    assert finding.severity is Severity.ERROR
    assert (finding.evidence["num_units_with_a_twin"], finding.evidence["num_groups"]) == (6, 3)
    with torch.no_grad():
        model[0].weight[5] += 0.1
    (finding,) = check(model)
    assert (finding.severity, finding.evidence["num_groups"]) == (Severity.WARNING, 2)


def test_equal_weights_with_different_gradients_part():
    model = mlp()
    nn.init.zeros_(model[4].weight)
    nn.init.constant_(model[2].weight, 0.5)
    assert check(model) == []


def test_different_biases_part():
    model = mlp()
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.constant_(model[2].weight, 0.5)
    assert check(model) == []


def test_dropout_parts_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Tanh(), nn.Linear(16, 2))
    nn.init.constant_(model[0].weight, 0.5)
    nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[3].weight, 0.5)
    (finding,) = check(model.eval())
    assert finding.severity is Severity.ERROR
    assert check(model.train()) == []


@pytest.mark.parametrize("kind", ["depthwise", "embedding", "frozen", "norm"])
def test_rows_that_are_no_units_and_what_is_not_trained_are_left_out(kind):
    torch.manual_seed(0)
    if kind == "depthwise":
        conv = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        nn.init.constant_(conv.weight, 0.3)
        assert check(nn.Sequential(conv, nn.Conv1d(8, 2, 1)), torch.randn(4, 8, 5)) == []
        return
    if kind == "embedding":
        embedding = nn.Embedding(10, 4)
        nn.init.ones_(embedding.weight)
        assert check(nn.Sequential(embedding, nn.Linear(4, 2)), torch.randint(0, 10, (8, 3))) == []
        return
    model = mlp()
    if kind == "frozen":
        nn.init.constant_(model[0].weight, 0.5)
        nn.init.zeros_(model[0].bias)
        nn.init.constant_(model[2].weight, 0.5)
        model[0].requires_grad_(False)
    else:
        model = nn.Sequential(model[0], nn.LayerNorm(6), *model[1:])
    assert check(model) == []


@pytest.mark.parametrize(
    "make",
    [healthy.Lora, healthy.fixup, healthy.SparseExperts, healthy.DenseExperts, lambda: healthy.residual(scale=0.0)],
)
def test_designed_zeros_are_no_symmetry(make):
    torch.manual_seed(0)
    model = make()
    width = next(parameter.shape[-1] for parameter in model.parameters() if parameter.dim() == 2)
    assert check(model, torch.randn(16, width)) == []


@pytest.mark.parametrize(
    "name",
    [
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "BertForMaskedLM",
        "ViTForImageClassification",
        "T5ForConditionalGeneration",
        "MambaForCausalLM",
        "SwinForImageClassification",
        "MixtralForCausalLM",
    ],
)
def test_transformers_have_none(name):
    torch.manual_seed(0)
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)
    assert check(model_type.build(), model_type.inputs()) == []


def test_a_plain_recording_is_not_judged():
    model = mlp()
    with record(model) as recorder:
        model(INPUTS).sum().backward()
    assert isinstance(RULE.check(recorder.recording), NotApplicable)


def test_units_that_differ_in_late_columns_only_are_no_twins():
    torch.manual_seed(0)
    wide = nn.Linear(64, 4, bias=False)
    with torch.no_grad():
        wide.weight[:, :40] = wide.weight[0, :40]
        wide.weight[3] = wide.weight[2]
    model = nn.Sequential(wide, nn.Tanh(), nn.Linear(4, 2, bias=False), nn.Tanh(), nn.Linear(2, 1))
    with torch.no_grad():
        model[2].weight[:, 3] = model[2].weight[:, 2]
    (finding,) = check(model, torch.randn(16, 64, generator=torch.Generator().manual_seed(1)))
    assert (finding.evidence["num_units_with_a_twin"], finding.evidence["num_groups"]) == (2, 1)


# --- units that are no rows -----------------------------------------------------------------------------------------


def upsampling():
    torch.manual_seed(0)
    return nn.Sequential(nn.ConvTranspose2d(4, 8, 3), nn.Tanh(), nn.ConvTranspose2d(8, 3, 3))


def constant(layer, value=0.05):
    nn.init.constant_(layer.weight, value)
    nn.init.zeros_(layer.bias)


PICTURES = torch.randn(8, 4, 5, 5, generator=torch.Generator().manual_seed(0))


def test_the_units_of_a_transposed_convolution_are_its_second_dimension():
    model = upsampling()
    assert check(model, PICTURES) == []
    constant(model[0])
    assert check(model, PICTURES) == []  # the next layer parts them
    constant(model[2])
    (finding,) = check(model, PICTURES)
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("0",))
    assert (finding.evidence["num_units"], finding.evidence["num_units_with_a_twin"]) == (8, 8)
    assert_well_said([finding])


def test_input_channels_of_a_transposed_convolution_that_are_treated_alike_are_no_units():
    model = nn.Sequential(nn.ConvTranspose2d(4, 8, 3), *upsampling()[1:])
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[:1].expand(4, -1, -1, -1))
    assert check(model, PICTURES[:, :1].repeat(1, 4, 1, 1)) == []


class Products(nn.Module):
    """Products with raw parameters: `x @ w`, or `F.linear(x, w.T)` with the units in the rows."""

    def __init__(self, *weights, rows=False, listed=False, bias=None):
        super().__init__()
        given = [nn.Parameter(weight.T.clone() if rows else weight.clone()) for weight in weights]
        self.rows, self.bias = rows, bias
        if listed:
            self.weights = nn.ParameterList(given)
        else:
            for i, weight in enumerate(given):
                self.register_parameter(f"w{i}", weight)

    def forward(self, x):
        weights = list(self.parameters())
        for i, weight in enumerate(weights):
            x = nn.functional.linear(x, weight) if self.rows else x @ weight
            x = x if self.bias is None or i else x + self.bias
            x = torch.tanh(x) if i < len(weights) - 1 else x
        return x


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def traced(model, inputs=INPUTS):
    return RULE.check(observe(Problem(model, inputs)))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("rows", [False, True])
def test_units_of_raw_parameters_are_found_in_rows_and_in_columns(rows, listed):
    weights = (torch.full((8, 6), 0.1), randn(1, 4).expand(6, 4), randn(4, 2))
    model = Products(*weights, rows=rows, listed=listed)
    (finding,) = traced(model)
    assert (finding.severity, finding.evidence["num_units"]) == (Severity.ERROR, 6)
    first = next(iter(model.parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        (model(INPUTS) - 1.0).square().mean().backward()
        optimizer.step()
    units = first if rows else first.T
    assert torch.allclose(units, units[:1].expand_as(units), rtol=1e-5)


def test_copied_columns_of_a_network_of_two_products_are_counted():
    first, second = randn(8, 6), randn(6, 3, seed=1)
    first[:, 3:5] = first[:, :2]
    second[3:5] = second[:2]
    (finding,) = traced(Products(first, second))
    assert finding.severity is Severity.WARNING
    assert (finding.evidence["num_units_with_a_twin"], finding.evidence["num_groups"]) == (4, 2)


HEALTHY_PRODUCTS = {
    "random": lambda: Products(randn(8, 6), randn(6, 4, seed=1), randn(4, 2, seed=2)),
    "parted by the next layer": lambda: Products(torch.full((8, 6), 0.1), randn(6, 4), randn(4, 2)),
    "parted by a bias": lambda: Products(torch.full((8, 6), 0.1), randn(1, 2).expand(6, 2), bias=randn(6)),
    "a zero factor": lambda: Products(randn(8, 2), torch.zeros(2, 6), randn(6, 2, seed=1)),
    "a zero head": lambda: Products(randn(8, 6), torch.zeros(6, 2)),
    "an output that is asked for the same": lambda: Products(randn(8, 6), torch.full((6, 2), 0.1)),
    "one product": lambda: Products(torch.full((8, 2), 0.1)),
}


@pytest.mark.parametrize("name", HEALTHY_PRODUCTS)
def test_healthy_raw_parameters_have_no_twins(name):
    model = HEALTHY_PRODUCTS[name]()
    assert RULE.check(observe(Problem(model, INPUTS, loss=lambda output: (output - 1.0).square().mean()))) == []


def test_a_module_behind_raw_parameters_is_the_output_layer():
    class WithHead(Products):
        def __init__(self):
            super().__init__(torch.full((8, 6), 0.1), randn(1, 4).expand(6, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            first, second, *_ = self.parameters()
            return self.head(torch.tanh(torch.tanh(x @ first) @ second))

    (finding,) = traced(WithHead())
    assert "'w0'" in finding.message
