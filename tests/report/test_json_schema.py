"""The JSON that machines read is what docs/schemas/diagnosis.schema.json says, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator
from torch import nn

import headwater as hw
from headwater.recording import RecordingBuilder
from tests.capture import planted_faults
from tests.capture.transformers_models import MODEL_TYPES
from tests.recording.samples import sample
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "diagnosis.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
INPUTS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def assert_valid(diagnosis):
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    problems = [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(data)]
    assert problems == []
    return data


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("make", planted_faults.ALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("lines", [True, False])
def test_broken_models(make, lines):
    torch.manual_seed(0)
    data = assert_valid(hw.diagnose(make(), INPUTS, lines=lines))
    assert bool(data["lines"]) is lines


@pytest.mark.parametrize(
    "model",
    [
        broken.DetachedInForward(),
        broken.NoGradEncoder(),
        broken.ArgmaxInTheMiddle(),
        healthy.SparseExperts(),
        nn.Linear(8, 1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_that_are_cut_or_sparse(model):
    assert_valid(hw.diagnose(model, INPUTS))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_become_null(value):
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight[0, 0] = value
    assert assert_valid(hw.diagnose(model, INPUTS, torch.zeros(64, 1), loss=nn.MSELoss()))["findings"]


def test_an_optimiser_and_a_precision():
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    data = assert_valid(
        hw.diagnose(model, INPUTS, torch.zeros(64, 1), loss=nn.MSELoss(), optimizer=optimizer, precision="float16")
    )
    assert data["context"]["optimizer"] == "AdamW"


def test_recordings_of_any_kind():
    assert_valid(hw.judge(RecordingBuilder().build()))
    assert_valid(hw.judge(sample()))
    model = nn.Sequential(nn.Linear(8, 1))
    with hw.record(model) as recorder:
        model(INPUTS).sum().backward()
    assert_valid(hw.judge(recorder.recording))


def test_names_in_any_script():
    model = nn.Sequential()
    model.add_module("кодер", nn.Linear(8, 8))
    model.add_module("解码器", nn.Linear(8, 1))
    assert_valid(hw.diagnose(model, INPUTS))


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "MixtralForCausalLM", "ViTForImageClassification", "CLIPModel"])
def test_transformers(name):
    model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)
    assert_valid(hw.diagnose(model_type.build(), model_type.inputs()))


def test_a_field_that_nobody_described_is_refused():
    data = hw.judge(RecordingBuilder().build()).to_dict()
    data["profile_of_the_moon"] = 1
    assert [error.message for error in VALIDATOR.iter_errors(data)]
