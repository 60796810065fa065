from __future__ import annotations

from pathlib import Path

import pytest

from headwater.lab.sweep import GridError, SweepError
from headwater.lab.sweep.experiment import EngineChoice, parse_experiment, read_experiment

EXAMPLES = Path(__file__).parents[3] / "examples"

WHOLE = """
[grid]
depth = [4, 8]
weight_variance = {from = 1, to = 100, num = 3, spacing = "log"}
activation = "tanh"
[base]
width = 8
[data]
kind = "digits"
batch = 16
[measure]
seeds = [1, 2, 3]
train = 5
impossible = "skip"
[engine]
kind = "slurm"
workers = 9
slurm_partition = "cpu"
[output]
folder = "here"
"""


def test_every_table_says_what_it_is_named_for():
    experiment = parse_experiment(WHOLE)
    assert experiment.axes == {"depth": [4, 8], "weight_variance": [1.0, 10.0, 100.0], "activation": ["tanh"]}
    assert experiment.base == {"width": 8}
    assert experiment.settings == {"data": "digits", "batch": 16, "seeds": [1, 2, 3], "train": 5, "impossible": "skip"}
    assert experiment.engine == EngineChoice(kind="slurm", workers=9, options={"slurm_partition": "cpu"})
    assert experiment.output == Path("here")


@pytest.mark.parametrize("name", ["sweep.toml", "heat_map.toml"])
def test_the_examples_are_experiments(name):
    experiment = read_experiment(EXAMPLES / name)
    assert "depth" in experiment.axes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[grid\ndepth = 3", "expected TOML: "),
        ("", r"expected a table \[grid\]"),
        ("grid = 3", r"expected \[grid\] to be a table, got grid = 3"),
        (
            "[grid]\ndepth = [3]\n[engines]",
            r"the file has no 'engines'; it has grid, base, data, measure, engine, output",
        ),
        ("[grid]\ndepth = []", "expected values for the axis 'depth'"),
        ("[grid]\ndepth = {from = 1, to = 2, num = inf}", r"expected the range of 'depth' in \[grid\]"),
        ("[grid]\ndepth = {from = 1}", r"expected the range of 'depth' in \[grid\]"),
        ("[grid]\ndepth = {from = 0, to = 1, num = 3, spacing = 'log'}", "or 'log' between numbers above 0"),
        ("[grid]\ndepth = {from = 0, too = 1, num = 3}", r"the range of 'depth' in \[grid\] has no 'too'"),
        ("[grid]\ndepth = [3]\n[measure]\nseeds = 0", "expected seeds to be a whole number from 1, got 0"),
        ("[grid]\ndepth = [3]\n[measure]\nseed_count = 3", r"\[measure\] has no 'seed_count'"),
        ("[grid]\ndepth = [3]\n[data]\nkind = 'mnist'", "expected data to be one of gaussian, digits"),
        (
            "[grid]\ndepth = [3]\n[engine]\nkind = 'spark'",
            "expected the engine to be one of loky, serial, dask, ray, slurm, got 'spark'",
        ),
        ("[grid]\ndepth = [3]\n[engine]\npartition = 'cpu'", "the engine 'loky' has no option 'partition'"),
        ("[grid]\ndepth = [3]\n[engine]\naddress = 'tcp://a'", "an address is of a Dask or a Ray cluster"),
        ("[grid]\ndepth = [3]\n[engine]\nworkers = 0", "expected the engine's workers"),
        ("[grid]\ndepth = [3]\n[output]\nfolder = 3", r"expected the folder in \[output\] to be a path, got 3"),
    ],
)
def test_what_is_no_experiment_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(GridError, match=sentence) as refused:
        parse_experiment(text)
    assert "\n" not in str(refused.value)


def test_a_range_of_layers_is_of_whole_numbers_and_one_of_variances_of_floats():
    text = """[grid]
        depth = {from = 4, to = 64, num = 5, spacing = "log"}
        weight_variance = {from = 1, to = 3, num = 3}"""
    axes = parse_experiment(text).axes
    assert repr(axes) == "{'depth': [4, 8, 16, 32, 64], 'weight_variance': [1.0, 2.0, 3.0]}"


def test_a_file_that_is_no_text_is_one_sentence(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SweepError, match="it is no text in UTF-8"):
        read_experiment(tmp_path / "a.toml")


def test_other_values_replace_an_axis_or_a_base():
    experiment = parse_experiment(WHOLE).with_values("width", [4, 8]).with_values("depth", [16])
    assert "width" not in experiment.base
    assert experiment.axes["width"] == [4, 8]
    assert experiment.base["depth"] == 16
    assert "depth" not in experiment.axes
