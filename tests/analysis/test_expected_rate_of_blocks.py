from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import headwater as hw
from headwater.analysis.blocks import longest_run_of_blocks
from headwater.analysis.expected_blocks import block_initialisation, expected_of_block
from headwater.networks import DeepNeuralNetwork

WIDTH = 64


class Block(nn.Module):
    def __init__(self, branch, scale=1.0):
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x):
        return x + self.branch(x) if self.scale == 1.0 else x + self.scale * self.branch(x)


class LearnedScale(nn.Module):
    def __init__(self, branch, scale, shape=()):
        super().__init__()
        self.branch = branch
        self.scale = nn.Parameter(torch.full(shape, scale))

    def forward(self, x):
        return x + self.scale * self.branch(x)


class Functional(nn.Module):
    def __init__(self, num_blocks, activation=F.gelu):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(num_blocks))
        self.head = nn.Linear(WIDTH, 3)
        self.activation = activation

    def forward(self, x):
        x = self.first(x)
        for linear in self.linears:
            x = x + self.activation(linear(x))
        return self.head(x)


def he(model):
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


def stack(make_block, num_blocks):
    blocks = [make_block(num_blocks) for _ in range(num_blocks)]
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.Linear(WIDTH, 3))


def one_layer(activation):
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), activation)


def two_layers(activation):
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), activation, nn.Linear(WIDTH, WIDTH))


def normed_first(norm, activation, wider=1):
    return nn.Sequential(norm(WIDTH), nn.Linear(WIDTH, wider * WIDTH), activation, nn.Linear(wider * WIDTH, WIDTH))


DEFAULT, HE = "PyTorch's default initialisation", "He initialisation"
STACKS = {
    "the notebook's network": (lambda n: DeepNeuralNetwork([WIDTH] * (n + 2) + [3], use_shortcut=True), DEFAULT),
    "functional GELU": (Functional, DEFAULT),
    "functional tanh": (lambda n: Functional(n, torch.tanh), DEFAULT),
    "functional He-ReLU": (lambda n: he(Functional(n, F.relu)), HE),
    "a tenth of SiLU": (lambda n: stack(lambda _: Block(one_layer(nn.SiLU()), 0.1), n), DEFAULT),
    "1 / sqrt(L) of He-ReLU": (lambda n: he(stack(lambda n: Block(two_layers(nn.ReLU()), n**-0.5), n)), HE),
    "two layers": (lambda n: stack(lambda _: Block(two_layers(nn.GELU())), n), DEFAULT),
    "pre-norm": (lambda n: stack(lambda _: Block(normed_first(nn.LayerNorm, nn.GELU(), 4)), n), DEFAULT),
    "pre-RMSNorm, learned scale": (
        lambda n: stack(lambda _: LearnedScale(normed_first(nn.RMSNorm, nn.SiLU()), 0.3), n),
        DEFAULT,
    ),
    "LayerScale": (
        lambda n: stack(lambda _: LearnedScale(normed_first(nn.LayerNorm, nn.ReLU()), 0.1, (WIDTH,)), n),
        DEFAULT,
    ),
    "pre-activation with BatchNorm": (
        lambda n: he(
            stack(lambda _: Block(nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))), n)
        ),
        HE,
    ),
    "norm before the activation": (
        lambda n: he(stack(lambda _: Block(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU())), n)),
        HE,
    ),
}


def expected_of(model, seed=0, *, lines=True):
    inputs = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(seed))
    targets = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(seed))
    return hw.diagnose(model, inputs, targets, loss=nn.CrossEntropyLoss(), lines=lines).expected


@pytest.mark.parametrize(
    ("name", "num_blocks"), [*((name, 10) for name in STACKS), ("functional He-ReLU", 40), ("two layers", 40)]
)
def test_a_healthy_initialisation_is_what_theory_expects(name, num_blocks):
    make, initialisation = STACKS[name]
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        found.append(expected_of(make(num_blocks), seed))
    assert {(rate.initialisation, rate.num_layers) for rate in found} == {(initialisation, num_blocks)}
    assert sum(rate.is_expected for rate in found) >= 19
    assert f"is what {initialisation} gives with a shortcut around a branch with" in str(
        next(rate for rate in found if rate.is_expected)
    )


@pytest.mark.parametrize("name", [name for name in STACKS if name != "norm before the activation"])
def test_one_block_whose_weights_are_ten_times_too_large_leaves_the_band(name):
    make, initialisation = STACKS[name]
    torch.manual_seed(1)
    model = make(10)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        linears[len(linears) // 2].weight.mul_(10.0)
    rate = expected_of(model)
    assert rate.initialisation == initialisation
    assert rate.measured_factor > rate.high
    assert f"than {initialisation} should give" in str(rate)


def test_the_scale_of_weights_before_a_norm_is_of_no_consequence():
    make, _ = STACKS["norm before the activation"]
    torch.manual_seed(1)
    model = make(10)
    with torch.no_grad():
        model[5].branch[0].weight.mul_(10.0)
        model[5].branch[0].bias.mul_(10.0)
    assert expected_of(model).is_expected


def test_weights_like_the_identity_are_not_what_theory_expects():
    torch.manual_seed(0)
    model = Functional(8, torch.tanh)
    for linear in model.linears:
        linear.weight.data = torch.eye(WIDTH)
    rate = expected_of(model)
    assert rate.initialisation == "Xavier, LeCun or orthogonal initialisation"
    assert not rate.is_expected


@pytest.mark.parametrize(
    "name", ["functional tanh", "two layers", "pre-norm", "pre-RMSNorm, learned scale", "LayerScale"]
)
def test_chi_of_a_branch_is_that_of_plain_autograd_over_many_weights(name):
    """The oracle: the same block's branch in float64, with its weights drawn anew 200 times for the stream that it reads."""
    make, _ = STACKS[name]
    torch.manual_seed(2)
    model = make(6).double()
    inputs = torch.randn(32, WIDTH, dtype=torch.float64)
    diagnosis = hw.diagnose(model, inputs)
    block = longest_run_of_blocks(diagnosis.recording, diagnosis.waterfall)[2]
    expected = expected_of_block(replace(block, cosine=0.0), block_initialisation([block]), deviations=3.0)
    branch, scale = (
        (lambda x: torch.tanh(model.linears[3](x)), 1.0)
        if isinstance(model, Functional)
        else (model[4].branch, getattr(model[4], "scale", 1.0))
    )
    parts = [model.linears[3]] if isinstance(model, Functional) else list(model[4].branch)
    stream = model.first(inputs) if isinstance(model, Functional) else model[:4](inputs)
    if isinstance(model, Functional):
        for linear in model.linears[:3]:
            stream = stream + torch.tanh(linear(stream))
    stream = stream.detach().requires_grad_()
    squares = []
    for _ in range(200):
        for part in parts:
            if isinstance(part, nn.Linear):
                part.reset_parameters()
        cotangent = torch.randn(32, WIDTH, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(scale * branch(stream), stream, cotangent)
        squares.append(float(gradient.square().sum() / cotangent.square().sum()))
    assert math.expm1(expected.limit) == pytest.approx(sum(squares) / len(squares), rel=0.1)


def test_rezero_is_a_factor_of_exactly_one():
    rate = expected_of(stack(lambda _: LearnedScale(two_layers(nn.ReLU()), 0.0), 6))
    assert rate.branch_scale == 0.0
    assert rate.expected_factor == 1.0
    assert rate.is_expected
    assert "that is multiplied by 0" in str(rate)


def test_last_layers_of_zeros_are_a_factor_of_exactly_one():
    model = stack(lambda _: Block(two_layers(nn.ReLU())), 6)
    for block in model[1:-1]:
        nn.init.zeros_(block.branch[2].weight)
    rate = expected_of(model)
    assert rate.initialisation == DEFAULT
    assert rate.expected_factor == 1.0
    assert rate.is_expected


def test_add_with_alpha_is_a_scale_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return torch.add(x, torch.tanh(self.linear(x)), alpha=0.1)

    torch.manual_seed(0)
    rate = expected_of(stack(lambda _: Scaled(), 6))
    assert rate.branch_scale == pytest.approx(0.1)
    assert rate.is_expected


def test_convolutional_branches_are_known():
    def branch():
        return nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
        )

    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        *(Block(branch()) for _ in range(5)),
        nn.Flatten(),
        nn.Linear(16 * 144, 2),
    ]
    rate = hw.diagnose(nn.Sequential(*layers), torch.randn(8, 3, 12, 12)).expected
    assert (rate.num_layers, rate.normalisation, rate.activation) == (5, "BatchNorm2d", "ReLU")
    assert rate.is_expected


class Basic(nn.Module):
    """ResNet's basic block, with an activation behind the sum."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


def test_basic_blocks_of_a_resnet_are_known():
    def make():
        blocks = [Basic(16) for _ in range(5)]
        return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(16 * 144, 2))

    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        found.append(hw.diagnose(make(), torch.randn(8, 3, 12, 12)).expected)
    assert {rate.num_layers for rate in found} == {5}
    assert sum(rate.is_expected for rate in found) >= 19


def test_an_activation_behind_the_last_block_is_not_the_blocks():
    torch.manual_seed(0)
    blocks = [Block(one_layer(nn.Tanh())) for _ in range(3)]
    rate = expected_of(nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.ReLU(), nn.Linear(WIDTH, 3)))
    assert rate.num_layers == 3
    assert rate.measured_factor > 1.0
    assert rate.is_expected


def test_without_lines_blocks_of_modules_are_known():
    torch.manual_seed(0)
    with_lines = expected_of(STACKS["pre-norm"][0](8))
    torch.manual_seed(0)
    without = expected_of(STACKS["pre-norm"][0](8), lines=False)
    assert without.expected_factor == pytest.approx(with_lines.expected_factor, rel=1e-6)
    assert without.high == pytest.approx(with_lines.high, rel=1e-6)


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch, self.shortcut = one_layer(nn.ReLU()), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


class HalfShortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = one_layer(nn.ReLU())

    def forward(self, x):
        return 0.5 * x + self.branch(x)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.linear(x) * torch.sigmoid(self.gate(x))


@pytest.mark.parametrize("block", [Projected, HalfShortcut, Gated, lambda: Block(one_layer(nn.Hardswish()))])
def test_of_other_blocks_nothing_is_said(block):
    assert expected_of(stack(lambda _: block(), 5)) is None


def test_a_block_of_another_kind_ends_a_run():
    torch.manual_seed(0)
    blocks = [Block(one_layer(nn.Tanh())) for _ in range(7)]
    blocks[2] = Projected()
    rate = expected_of(nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.Linear(WIDTH, 3)))
    assert rate.num_layers == 4
    assert rate.is_expected


def test_of_blocks_that_share_their_weights_nothing_is_said():
    block = Block(one_layer(nn.Tanh()))
    assert expected_of(nn.Sequential(nn.Linear(WIDTH, WIDTH), *[block] * 5, nn.Linear(WIDTH, 3))) is None


def test_of_a_transformer_nothing_is_said():
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(nn.Linear(8, 32), nn.TransformerEncoder(layer, 5, enable_nested_tensor=False))
    assert hw.diagnose(model, torch.randn(2, 7, 8)).expected is None


def test_the_report_says_it_and_json_holds_it():
    torch.manual_seed(0)
    diagnosis = hw.diagnose(DeepNeuralNetwork([WIDTH] * 8 + [1], use_shortcut=True), torch.randn(32, WIDTH))
    assert "per block is what PyTorch's default initialisation gives with a shortcut" in " ".join(
        str(diagnosis).split()
    )
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))["expected"]
    assert data["branch_scale"] == pytest.approx(1.0)
    assert "operations" not in diagnosis.to_dict()["waterfall"]["steps"][0]
