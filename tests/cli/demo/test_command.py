from __future__ import annotations

import re
import sys

import pytest
import torch
from matplotlib.image import imread

from headwater.cli import main
from headwater.cli.demo import command, digits
from headwater.cli.errors import ExitCode


@pytest.fixture
def short_training(monkeypatch):
    monkeypatch.setattr(digits, "SEEDS", (0,))
    monkeypatch.setattr(digits, "LEARNING_RATES", (0.003,))
    monkeypatch.setattr(digits, "NUM_EPOCHS", 2)


@pytest.fixture
def shown(short_training, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    num_threads = torch.get_num_threads()
    assert main(["demo"]) == ExitCode.HEALTHY
    assert torch.get_num_threads() == num_threads
    return capsys.readouterr()


def test_the_demo_shows_both_experiments_and_writes_the_figure_that_it_names(shown, tmp_path):
    lines = re.findall(r"^layers\.(\d)\.0\.weight has gradient mean of (\S+)$", shown.out, re.MULTILINE)
    assert [int(layer) for layer, _ in lines] == [0, 1, 2, 3, 4] * 2
    assert float(lines[0][1]) == pytest.approx(0.00020174118981231004, rel=1e-6)
    assert float(lines[5][1]) == pytest.approx(0.22186800837516785, rel=1e-6)
    for part in ("1099.8", "12.575", "87.455", "0.0400", "0.167", "200 seeds", "HW101 vanishing-gradient"):
        assert part in shown.out
    for variant in digits.VARIANTS:
        assert f"\n{variant.name} " in shown.out
    assert "Figure: headwater-demo.png" in shown.out
    assert imread(tmp_path / "headwater-demo.png").shape[1] > 1000


def test_a_piped_demo_is_plain_80_columns_and_has_no_progress_bar(shown):
    assert shown.err == ""
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize(("module", "package"), [("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")])
def test_a_missing_extra_gets_one_sentence_that_says_how_to_install_it(monkeypatch, capsys, module, package):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == module else sys)
    assert main(["demo"]) == ExitCode.USAGE_ERROR
    assert capsys.readouterr().err == f"headwater: the demo needs {package}: pip install 'headwater[demo]'\n"


def test_a_folder_that_is_not_there_is_told_before_the_work(capsys, tmp_path):
    assert main(["demo", "--output", str(tmp_path / "missing" / "figure.png")]) == ExitCode.USAGE_ERROR
    assert "there is no folder" in capsys.readouterr().err


def test_a_figure_of_an_unknown_format_is_told_before_the_work(capsys, tmp_path):
    assert main(["demo", "--output", str(tmp_path / "figure.xyz")]) == ExitCode.USAGE_ERROR
    assert "expected --output to end in .png, .pdf or .svg" in capsys.readouterr().err
