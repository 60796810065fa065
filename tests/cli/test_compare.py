from __future__ import annotations

import json
import math

import pytest

import headwater as hw
from headwater.cli import main
from headwater.cli.errors import ExitCode
from tests.cli.programs import run

TANH, SHORTCUT = "mlp depth=4 width=8 activation=tanh", "mlp depth=4 width=8 activation=tanh shortcut=identity"
FACTORIES = """
import torch
from torch import nn

import headwater as hw


def plain(activation=nn.Tanh):
    print("building")
    return nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 2))


def relu():
    return plain(nn.ReLU)


def problem():
    return hw.Problem(plain(), torch.ones(5, 3), torch.zeros(5, dtype=torch.long), nn.CrossEntropyLoss())


def data():
    return torch.ones(6, 3), torch.ones(6, 2), nn.MSELoss()


def only_inputs():
    return (torch.ones(6, 3),)


def number():
    return 3


network = plain()
"""


@pytest.fixture
def nets(folder):
    (folder / "nets.py").write_text(FACTORIES)
    return folder


def compare(capsys, *words):
    code = main(["compare", *words])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_two_specifications_are_compared_on_random_numbers(capsys):
    code, out, err = compare(capsys, TANH, SHORTCUT, "--seeds", "6")
    assert (code, err) == (ExitCode.HEALTHY, "")
    assert "With 'shortcut=identity' the first layer's gain is " in out.replace("\n", " ")
    assert "random cotangents" in out


def test_json_is_the_comparison_as_data_and_the_same_each_time(capsys, tmp_path):
    words = (TANH, SHORTCUT, "--seeds", "6", "--format", "json")
    code, out, _ = compare(capsys, *words, "--save", str(tmp_path / "saved.json"))
    data = json.loads(out)
    assert code == ExitCode.HEALTHY
    assert data["seeds"] == list(range(6))
    assert compare(capsys, *words)[1] == out
    assert json.loads(json.dumps(hw.Comparison.load(tmp_path / "saved.json").to_dict())) == data


def test_several_processes_give_the_same(capsys):
    pytest.importorskip("loky")
    words = (TANH, SHORTCUT, "--seeds", "4", "--format", "json")
    assert compare(capsys, *words, "--jobs", "2")[1] == compare(capsys, *words)[1]


def test_factories_are_compared_on_the_data_of_the_first_problem(nets, capsys):
    code, out, err = compare(capsys, "nets.py:relu", "nets.py:problem", "--seeds", "6", "--format", "json")
    data = json.loads(out)  # what the user's code prints is not in the way
    assert code == ExitCode.HEALTHY
    assert "building" in err
    assert [variant["name"] for variant in data["variants"]] == ["relu", "problem"]
    descriptions = [variant["description"].rpartition(".")[2] for variant in data["variants"]]
    assert descriptions == ["relu", "problem"]
    assert data["cotangent"] == "loss"


def test_a_factory_s_data_can_be_named(nets, capsys):
    words = ("nets.py:relu", "nets.py:plain", "--seeds", "2", "--format", "json")
    assert json.loads(compare(capsys, *words, "--inputs", "nets.py:data")[1])["cotangent"] == "loss"
    assert json.loads(compare(capsys, *words, "--inputs", "nets.py:only_inputs")[1])["cotangent"] == "random"


def test_the_digits_are_trained_on_and_held_out(capsys):
    words = (
        TANH,
        SHORTCUT,
        "--seeds",
        "2",
        "--inputs",
        "digits",
        "--train",
        "3",
        "--batch-size",
        "32",
        "--optimizer",
        "sgd",
    )
    code, out, _ = compare(capsys, *words, "--learning-rate", "0.1", "--format", "json")
    data = json.loads(out)
    assert code == ExitCode.HEALTHY
    assert data["training"] == {"num_steps": 3, "batch_size": 32, "optimizer": "SGD, learning rate 0.1"}
    assert "held-out accuracy" in data["verdict"]
    assert math.isfinite(data["variants"][0]["curve"]["held_out_accuracy"][0][-1])


def test_a_figure_is_written(capsys, tmp_path):
    path = tmp_path / "figure.png"
    code, _, err = compare(capsys, TANH, SHORTCUT, "--seeds", "2", "--figure", str(path))
    assert code == ExitCode.HEALTHY
    assert path.stat().st_size > 1000
    assert str(path) in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected two variants or more, got 0"),
        ((TANH,), "expected two variants or more, got 1"),
        ((TANH, TANH), "two variants are the same"),
        ((TANH, "mlp depht=3"), "there is no field 'depht'"),
        ((TANH, "mlp depth=three"), "expected depth to be a whole number from 1, got 'three'"),
        ((TANH, "nets.py:nothing"), "has no function 'nothing'"),
        ((TANH, "none.py:plain"), "there is no file 'none.py'"),
        ((TANH, "nets.py:network"), "expected 'network' to be a function that makes a network"),
        (("nets.py:plain", "nets.py:relu"), "nothing says what the networks read"),
        (
            ("nets.py:problem", "nets.py:number"),
            "variant 'number', seed 0: expected the factory to make a torch.nn.Module, got int",
        ),
        ((TANH, "mlp depth=3 num_inputs=5"), "inputs of one shape"),
        ((TANH, "mlp num_inputs=5", "--inputs", "digits"), "inputs of one shape"),
        (("mlp depth=2 num_inputs=5", "mlp depth=3 num_inputs=5", "--inputs", "digits"), "the digits have 64 pixels"),
        ((TANH, SHORTCUT, "--inputs", "nets.py:number"), "expected 'number' to give a headwater.Problem or a tuple"),
        ((TANH, SHORTCUT, "--inputs", "mnist"), "expected normal, digits, or"),
        ((TANH, SHORTCUT, "--train", "3"), "expected a loss to train with: take --inputs digits"),
        ((TANH, SHORTCUT, "--seeds", "0"), "0 is not in the range"),
        ((TANH, SHORTCUT, "--figure", "picture.bmp"), "expected --figure to end in .png, .pdf or .svg"),
        ((TANH, SHORTCUT, "--figure", "nowhere/picture.png"), "there is no folder 'nowhere'"),
        ((TANH, SHORTCUT, "--save", "nowhere/c.json"), "there is no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error_in_one_sentence(words, message, nets, capsys):
    code, out, err = compare(capsys, *words)
    assert (code, out) == (ExitCode.USAGE_ERROR, "")
    sentence = err.removeprefix("building\n")
    while sentence.startswith("building\n"):
        sentence = sentence.removeprefix("building\n")
    assert sentence.startswith("headwater: ")
    assert message in sentence
    assert sentence.count("\n") == 1


def test_it_runs_as_a_process_where_only_ascii_can_be_shown(tmp_path):
    done = run("compare", TANH, SHORTCUT, "--seeds", "2", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
