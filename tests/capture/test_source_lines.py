from __future__ import annotations

import linecache
import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import headwater as hw
from headwater.capture import Problem, observe
from headwater.capture.source_lines import SourceLines, calling_line
from headwater.networks import DeepNeuralNetwork
from tests.capture import planted_faults as planted
from tests.capture.snapshots import tensor_bits
from tests.capture.transformers_models import MODEL_TYPES


def _model_type(name):
    return next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)


INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", planted.ALL, ids=lambda make: make.__name__)
def test_a_planted_fault_is_the_line_that_loses_most(make):
    place = planted.shrink if make is planted.FunctionalCode else make
    worst = hw.diagnose(make(), INPUTS).lines[0]
    assert (worst.file, worst.line) == (planted.__file__, planted.planted_line(place))
    assert worst.decades < -2.0
    assert worst.code == linecache.getline(worst.file, worst.line).strip()


def test_a_fault_in_a_notebooks_cell_is_found_in_the_cell():
    cell = "def forward(model, x):\n    x = model.first(x)\n    return model.second(x * 1e-4)\n"
    name = "<ipython-input-7-0123456789ab>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    namespace: dict = {}
    exec(compile(cell, name, "exec"), namespace)
    model = type("InACell", (planted.PlainModule,), {"forward": namespace["forward"]})()
    diagnosis = hw.diagnose(model, INPUTS)
    worst = diagnosis.lines[0]
    assert (worst.file, worst.line, worst.code) == (name, 3, "return model.second(x * 1e-4)")
    assert "return model.second(x * 1e-4)" in diagnosis.annotate(name)


def test_a_line_knows_its_operation_its_calls_and_its_modules():
    lines = hw.diagnose(planted.InALoop(), INPUTS).lines
    first = next(line for line in lines if line.operation == "F.linear")
    assert first.calls == 5  # the first layer's input wants no gradient
    assert first.modules == tuple(f"layers.{i}" for i in range(1, 6))
    assert "x = layer(x)" in first.code


def test_the_lines_of_a_library_are_named_where_the_user_wrote_none():
    model_type = _model_type("GPT2LMHeadModel")
    lines = hw.diagnose(model_type.build(), model_type.inputs()).lines
    assert any("modeling_gpt2.py" in line.file for line in lines)
    assert not any(line.file.endswith("torch/nn/functional.py") for line in lines)


def test_the_first_nan_of_a_librarys_model_is_at_the_librarys_line_and_not_at_the_scripts():
    model = DeepNeuralNetwork([8, 8, 8], use_shortcut=False)
    with torch.no_grad():
        model.layers[0][0].weight.fill_(1e30)
    (finding,) = hw.diagnose(model, 1e30 * INPUTS).findings
    assert finding.code == "HW104"
    assert finding.lines
    assert all(line.file.endswith("deep_neural_network.py") for line in finding.lines)


def test_the_users_code_comes_before_the_librarys():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

        def forward(self, x):
            return self.layer(x)

    lines = hw.diagnose(Wrapper(), torch.randn(2, 4, 8)).lines
    operations = {line.operation for line in lines if line.code == "return self.layer(x)"}
    assert {"F.linear", "F.layer_norm"} <= operations
    assert "layer.linear1" in {module for line in lines for module in line.modules}


def test_a_sequential_without_code_of_its_own_is_the_line_that_asked():
    diagnosis = hw.diagnose(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 1)), INPUTS)  # asked here
    assert {line.file for line in diagnosis.lines} == {__file__}
    assert all("asked here" in line.code for line in diagnosis.lines)


def test_the_loss_has_its_lines_too():
    def loss(output, target):
        scaled = output * 1e-5
        return F.mse_loss(scaled, target)

    lines = hw.diagnose(planted.PlainModule(), INPUTS, torch.zeros(16, 1), loss=loss).lines
    (scaling,) = [line for line in lines if line.code == "scaled = output * 1e-5"]
    assert scaling.decades == pytest.approx(-5.0, abs=1e-6)
    assert scaling.modules == ()


def test_without_lines_there_are_none_and_nothing_else_is_missing():
    torch.manual_seed(0)
    model = planted.PlainModule()
    with_lines, without = (observe(Problem(model, INPUTS), lines=lines) for lines in (True, False))
    assert with_lines.lines
    assert not without.lines
    assert list(with_lines) == list(without)
    assert hw.judge(without).lines == ()
    assert hw.judge(without).waterfall.gain_decades == pytest.approx(hw.judge(with_lines).waterfall.gain_decades)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForMaskedLM", "ViTForImageClassification"])
def test_tracing_lines_changes_no_bit(name):
    model_type = _model_type(name)
    model, inputs = model_type.build(), model_type.inputs()

    def run(mode):
        torch.manual_seed(0)
        with mode:
            output = model(**inputs)
        output.logits.square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        return [tensor_bits(tensor) for tensor in (output.logits, *gradients) if tensor is not None]

    assert run(nullcontext()) == run(SourceLines())


def test_the_users_own_function_mode_sees_what_it_saw():
    class Counting(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    model = planted.PlainModule()
    with Counting() as outside:
        model(INPUTS)
    with Counting() as inside, SourceLines():
        model(INPUTS)
    assert inside.seen == outside.seen


def test_a_line_outside_of_any_function_of_a_user_is_none():
    assert calling_line(None) == ("", 0)


def test_decades_of_a_line_that_sends_nothing_are_minus_infinity():
    class Stopped(planted.PlainModule):
        def forward(self, x):
            return self.second(self.first(x) * 0.0)

    worst = hw.diagnose(Stopped(), INPUTS).lines[0]
    assert worst.decades == -math.inf
    assert worst.operation == "Tensor.mul"
