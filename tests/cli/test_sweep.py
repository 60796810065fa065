"""`headwater sweep` and `headwater plot` as a user types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import headwater as hw
from headwater.cli import main

EXPERIMENT = """
[grid]
weight_variance = [1.0, 2.0]
depth = [4, 8]
[base]
activation = "tanh"
width = 8
[measure]
seeds = 6
findings = false
[engine]
kind = "serial"
[output]
folder = "results"
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    return tmp_path


def sentence(capsys, *argv):
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("headwater: ")
    assert error.count("\n") == 1
    return error


def test_a_sweep_prints_how_deep_networks_train_and_the_same_command_goes_on(capsys):
    assert main(["sweep", "experiment.toml"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("4 cells done, in 'results'")
    assert "deepest" in output
    assert "theory" in output
    assert max(map(len, output.splitlines())) <= 120
    parts = sorted(path.name for path in (hw.read_sweep("results").folder).iterdir())
    assert main(["sweep", "experiment.toml", "--resume"]) == 0
    assert capsys.readouterr().out == output
    assert sorted(path.name for path in hw.read_sweep("results").folder.iterdir()) == parts
    assert "resume it, or name another folder" in sentence(capsys, "sweep", "experiment.toml", "--no-resume")


def test_options_win_over_the_file(capsys):
    options = [
        "--output",
        "other",
        "--seeds",
        "2",
        "--engine",
        "loky",
        "--workers",
        "1",
        "--set",
        "depth=3,5,7",
        "--set",
        "width=4",
    ]
    assert main(["sweep", "experiment.toml", *options]) == 0
    result = hw.read_sweep("other")
    assert result.axes["depth"] == [3, 5, 7]
    rows = result.table().rows()
    assert {(row["width"], row["num_seeds"]) for row in rows} == {(4, 2)}
    assert len(rows) == 6


def test_failed_cells_are_named(capsys):
    with Path("experiment.toml").open("a") as file:
        file.write('[data]\nkind = "digits"\n')
    assert main(["sweep", "experiment.toml", "--set", "num_inputs=64,16", "--set", "num_outputs=10"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("4 cells done and 4 failed")
    assert (
        "failed: mlp depth=4 width=8 activation=tanh num_outputs=10 weight_variance=1.0: ValueError: the digits"
        in output
    )


def test_a_sweep_in_which_every_cell_fails_is_no_success(capsys):
    with Path("experiment.toml").open("a") as file:
        file.write('[data]\nkind = "digits"\n')
    assert main(["sweep", "experiment.toml"]) == 2
    assert capsys.readouterr().out.startswith("0 cells done and 4 failed")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["sweep", "none.toml"], "cannot read 'none.toml': No such file"),
        (
            ["sweep", "experiment.toml", "--set", "activation=tanh,rellu"],
            "there is no network in the grid with activation = 'rellu'",
        ),
        (
            ["sweep", "experiment.toml", "--set", "initialisation=lsuv,lecun"],
            "there is no network in the grid with initialisation = 'lsuv': initialisation 'lsuv' finds the variances of weights",
        ),
        (
            [
                *("sweep", "experiment.toml", "--set", "weight_variance=1", "--set", "initialisation=lsuv"),
                "--skip-impossible",
            ],
            "there is no network in the grid: initialisation 'lsuv'",
        ),
        (["sweep", "experiment.toml", "--set", "depth"], "expected --set NAME=VALUES"),
        (
            ["sweep", "experiment.toml", "--set", "shortcut=none,identity", "--set", "initialisation=he,fixup"],
            "combinations do not exist",
        ),
        (["sweep", "experiment.toml", "--address", "tcp://localhost:1"], "an address is of a Dask or a Ray cluster"),
        (
            ["sweep", "experiment.toml", "--output", "experiment.toml"],
            "cannot write into 'experiment.toml': File exists",
        ),
        (["plot", "nowhere"], "expected the folder of a sweep, got 'nowhere'"),
        (["plot", "results", "--figure", "no/such.png"], "there is no folder 'no'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, argv, expected):
    assert expected in sentence(capsys, *argv)


def test_bad_toml_is_one_sentence_that_names_the_file(capsys, in_folder):
    (in_folder / "experiment.toml").write_text("[grid]\ndepth = [3")
    assert "'experiment.toml': expected TOML" in sentence(capsys, "sweep", "experiment.toml")


def test_a_cluster_that_is_not_there_is_one_sentence_and_what_is_finished_stays(capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("headwater.lab.sweep.clusters._CONNECT_SECONDS", 1)
    assert main(["sweep", "experiment.toml"]) == 0
    capsys.readouterr()
    found = ["--engine", "dask", "--address", "tcp://127.0.0.1:9", "--set", "depth=4,8,16"]
    assert "the Dask scheduler at tcp://127.0.0.1:9 cannot be reached" in sentence(
        capsys, "sweep", "experiment.toml", *found
    )
    assert len(hw.read_sweep("results")) == 4


def test_impossible_cells_are_skipped_on_request(capsys):
    sets = ["--set", "shortcut=none,identity", "--set", "initialisation=he,fixup", "--set", "depth=3"]
    assert main(["sweep", "experiment.toml", "--skip-impossible", *sets]) == 0
    assert len(hw.read_sweep("results")) == 6


def test_plot_draws_the_heat_map(capsys, in_folder):
    assert main(["sweep", "experiment.toml"]) == 0
    assert main(["plot", "results", "--figure", "map.png"]) == 0
    assert "drawn: map.png" in capsys.readouterr().err
    assert (in_folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot write the figure 'map.abc'" in sentence_after_output(
        capsys, "plot", "results", "--figure", "map.abc"
    )
    assert "has no parameter 'colour'" in sentence_after_output(
        capsys, "plot", "results", "--figure", "a.png", "--x", "colour"
    )


def sentence_after_output(capsys, *argv):
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_damaged_parts_are_a_line_and_no_traceback(capsys, in_folder):
    assert main(["sweep", "experiment.toml"]) == 0
    (part,) = (in_folder / "results").glob("*.parquet")
    part.write_bytes(b"")
    capsys.readouterr()
    assert main(["sweep", "experiment.toml"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("4 cells done")
    assert "part-000001.parquet' is damaged" in captured.err
    assert "run again" in captured.err


def test_help_of_both_commands_needs_no_torch():
    for command in ("sweep", "plot"):
        program = f"import sys; from headwater.cli import main; code = main(['{command}', '--help']); assert not code; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("headwater.lab.sweep.experiment.Experiment.run", interrupted)
    assert main(["sweep", "experiment.toml"]) == 130
    assert "what is finished is in 'results', and the same command goes on" in capsys.readouterr().err
