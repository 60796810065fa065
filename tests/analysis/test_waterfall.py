from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis.causes import Cause
from headwater.analysis.gain import cotangent_signals
from headwater.capture import Problem, observe, record
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules.recordings import activation, chain, layers

INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def mlp(num_layers, make=nn.Sigmoid, width=8):
    parts = [module for _ in range(num_layers) for module in (nn.Linear(width, width), make())]
    return nn.Sequential(*parts, nn.Linear(width, 1))


def gain_of_first_layer(recording):
    """log10 of ||dL/dh|| of the first layer / ||dL/dy||, from the signals that other code measured."""
    profile = hw.judge(recording).profile
    return next(row.gain_decades for row in profile.rows if row.has_weights and row.is_leaf)


def test_along_a_chain_the_parts_add_up_to_the_total():
    diagnosis = hw.diagnose(mlp(20), INPUTS, torch.zeros(16, 1), loss=nn.MSELoss())
    fall = diagnosis.waterfall
    assert math.fsum(part.decades for part in fall) == pytest.approx(fall.total_decades, abs=1e-9)
    assert fall.gain_decades == pytest.approx(gain_of_first_layer(diagnosis.recording), abs=1e-6)
    loss = next(part for part in fall if part.cause is Cause.LOSS)
    slope = diagnosis.profile.cotangent
    assert slope is not None
    assert loss.decades == pytest.approx(math.log10(slope.norm), abs=1e-6)


def test_the_largest_part_of_a_sigmoid_network_are_its_sigmoids():
    worst = hw.diagnose(mlp(20), INPUTS).waterfall.parts[0]
    assert (worst.cause, worst.operation, worst.calls) == (Cause.ACTIVATION, "Sigmoid", 20)
    assert worst.decades == pytest.approx(20 * math.log10(0.24), abs=1.0)
    assert worst.modules == tuple(str(2 * i + 1) for i in reversed(range(20)))


def test_modules_alone_tell_the_same_of_a_chain():
    model = mlp(6, nn.Tanh)
    full = observe(Problem(model, INPUTS))
    with record(model) as recorder:
        torch.autograd.backward(model(INPUTS), torch.randn(16, 1, generator=torch.Generator().manual_seed(0)))
    assert not recorder.recording.operations
    by_modules = {part.operation: part.decades for part in hw.judge(recorder.recording).waterfall}
    by_operations = {part.operation: part.decades for part in hw.judge(full).waterfall}
    assert by_modules == pytest.approx(by_operations, abs=1e-6)


def test_a_hand_built_chain_is_split_by_module_type():
    fall = hw.judge(chain([*layers(4, "Tanh", 0.1, 0.5), activation("LayerNorm", 0.2)])).waterfall
    found = {(part.cause, part.operation): (round(part.decades, 6), part.calls) for part in fall}
    assert found == {
        (Cause.ACTIVATION, "Tanh"): (-3.0, 3),
        (Cause.WEIGHTS, "Linear"): (round(3 * math.log10(0.5), 6), 3),
        (Cause.NORMALISATION, "LayerNorm"): (round(math.log10(0.2), 6), 1),
    }


class Residual(nn.Module):
    def __init__(self, width=8, num_blocks=3):
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(num_blocks))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


def test_a_block_with_a_shortcut_reports_both_shares():
    model = Residual(num_blocks=1)
    cotangent = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    fall = hw.diagnose(model, INPUTS).waterfall
    (block,) = [step for step in fall.steps if step.cause is Cause.SHORTCUT]
    x = model.stem(INPUTS).double().detach().requires_grad_()
    branch = model.blocks[0].double()(x)
    (through_branch,) = torch.autograd.grad(branch, x, cotangent.double())
    assert block.branch_share == pytest.approx((through_branch.norm() / cotangent.norm()).item(), rel=1e-5)
    assert block.shortcut_share == pytest.approx(1.0, rel=1e-5)
    whole = (through_branch + cotangent).norm() / cotangent.norm()
    assert block.decades == pytest.approx(math.log10(whole), abs=1e-5)


@pytest.mark.parametrize("loss", [lambda output: (0.0 * output).sum(), lambda output: (output - 1e9).relu().sum()])
def test_a_block_with_a_shortcut_that_no_gradient_arrives_at_has_no_shares(loss):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu() + x
            return x

    diagnosis = hw.diagnose(Residual(), INPUTS, loss=loss)
    assert diagnosis.findings[0].code == "HW103"
    shares = [step.branch_share for step in diagnosis.waterfall.steps if step.branch_share is not None]
    assert shares
    assert all(map(math.isnan, shares))
    assert "HW103" in str(diagnosis)


def test_attention_and_functional_norms_are_told_from_shortcuts():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            x = self.first(x)
            return (self.query(x) @ self.key(x).mT).softmax(-1) @ self.value(x)

    fall = hw.diagnose(Attention(), torch.randn(2, 5, 8)).waterfall
    assert [step.cause for step in fall.steps] == [Cause.ATTENTION]


@pytest.mark.parametrize("model_type", MODEL_TYPES, ids=lambda model_type: model_type.model_class)
@pytest.mark.parametrize("lines", [True, False])
def test_the_steps_add_up_in_every_transformer(model_type, lines):
    recording = observe(Problem(model_type.build(), model_type.inputs()), lines=lines)
    fall = hw.judge(recording, []).waterfall
    assert all(math.isfinite(step.decades) for step in fall.steps)
    assert math.fsum(part.decades for part in fall) == pytest.approx(fall.total_decades, abs=1e-9)
    assert fall.reason or fall.module in recording.module_names
    row = next(row for row in hw.judge(recording, []).profile.rows if row.module == fall.module)
    if len(fall) and row.gain_decades is not None and len(cotangent_signals(recording)) == 1:
        assert fall.gain_decades == pytest.approx(row.gain_decades, abs=1e-5)


def test_a_recording_without_a_backward_pass_says_so():
    with record(mlp(2)) as recorder:
        pass
    fall = hw.judge(recorder.recording).waterfall
    assert (len(fall), fall.reason) == (0, "no backward pass was recorded")


class SideBySide(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem, self.left, self.right = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        return self.left(x) + self.right(x)


def test_branches_without_operations_are_no_chain():
    model = SideBySide()
    with record(model) as recorder:
        model(INPUTS).sum().backward()
    assert "use diagnose()" in hw.judge(recorder.recording).waterfall.reason


class ScaledShortcuts(nn.Module):
    """alpha x + branch(x), as DeepNorm has it (Wang et al. 2022)."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 1)
        self.branches = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for branch in self.branches:
            x = self.alpha * x + torch.tanh(branch(x))
        return self.last(x)


def test_a_shortcut_that_is_multiplied_by_a_number_is_one_with_its_share():
    fall = hw.diagnose(ScaledShortcuts(1.5), INPUTS, torch.zeros(16, 1), loss=nn.MSELoss()).waterfall
    blocks = [step for step in fall.steps if step.cause is Cause.SHORTCUT]
    assert len(blocks) == 3
    assert [step.shortcut_share for step in blocks] == pytest.approx([1.5] * 3)
    assert all(step.branch_share is not None and 0.0 < step.branch_share < 1.0 for step in blocks)
