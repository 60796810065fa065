from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import headwater as hw
from headwater.cli import main
from headwater.cli.errors import ExitCode
from tests.cli.programs import run


def _strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("target", ["factories.py:healthy", "pkg.inner:healthy", "factories.py:instance"])
def test_a_healthy_model_ends_with_0_and_a_report(folder, capsys, target):
    assert main(["diagnose", target]) == ExitCode.HEALTHY
    out, err = capsys.readouterr()
    assert "Linear" in out
    assert err == ""


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [("info", 1), ("warning", 1), ("error", 1), ("never", 0)],
)
def test_an_error_fails_at_every_level_but_never(folder, capsys, fail_on, code):
    assert main(["diagnose", "factories.py:vanishing", "--fail-on", fail_on]) == code
    assert "HW101 vanishing-gradient" in capsys.readouterr().out


def test_findings_are_a_failure_without_being_asked_for(folder, capsys):
    assert main(["diagnose", "factories.py:vanishing"]) == ExitCode.FINDINGS


def test_the_report_is_that_of_the_python_interface(folder, capsys):
    (folder / "small.py").write_text(
        "import headwater as hw, torch\n"
        "def problem():\n"
        "    model = torch.nn.Linear(8, 1)\n"
        "    return hw.Problem(model, torch.randn(4, 8), torch.zeros(4, 1), torch.nn.MSELoss())\n"
    )
    assert main(["diagnose", "small.py:problem", "--seed", "7"]) == ExitCode.HEALTHY
    torch.manual_seed(7)
    expected = hw.diagnose(torch.nn.Linear(8, 1), torch.randn(4, 8), torch.zeros(4, 1), loss=torch.nn.MSELoss())
    assert capsys.readouterr().out == expected.to_text()


def test_all_shows_what_is_folded_otherwise(folder, capsys):
    main(["diagnose", "factories.py:vanishing"])
    folded = capsys.readouterr().out
    main(["diagnose", "factories.py:vanishing", "--all"])
    assert len(capsys.readouterr().out.splitlines()) > len(folded.splitlines()) + 20


def test_json_is_strict_and_alone_on_standard_output(folder, capsys):
    assert main(["diagnose", "factories.py:vanishing", "--format", "json"]) == ExitCode.FINDINGS
    document = _strict_json(capsys.readouterr().out)
    assert [finding["code"] for finding in document["findings"]] == ["HW101", "HW204"]


def test_what_the_users_code_prints_goes_to_standard_error(folder, capsys):
    assert main(["diagnose", "factories.py:talkative", "--format", "json"]) == ExitCode.HEALTHY
    out, err = capsys.readouterr()
    _strict_json(out)
    assert err == "loading the data\n"


def test_a_saved_recording_gives_the_same_report_again(folder, capsys):
    assert main(["diagnose", "factories.py:vanishing", "--save", "run.hw"]) == ExitCode.FINDINGS
    out, err = capsys.readouterr()
    assert err == "saved: run.hw ('headwater report run.hw' prints it again)\n"
    assert main(["report", "run.hw"]) == ExitCode.FINDINGS
    assert capsys.readouterr().out == out


ERRORS = {
    "factories.py:vector_loss": "expected the loss to be a scalar, got shape (4, 1)",
    "factories.py:wrong_inputs": "the forward pass failed on the inputs: RuntimeError: mat1 and mat2",
    "factories.py:without_parameters": "has no parameters",
    "factories.py:raises": "the factory 'raises' failed: ValueError: the data are gone",
    "factories.py:exits": "the factory 'exits' failed: SystemExit",
    "factories.py:nothing": "expected 'nothing' to give a headwater.Problem, got None",
    "nosuchpackage:problem": "there is no module 'nosuchpackage'",
    "nosuchfile.py:problem": "there is no file 'nosuchfile.py'",
}


@pytest.mark.parametrize("target", ERRORS)
def test_what_cannot_be_diagnosed_gets_one_sentence_on_standard_error(folder, capsys, target):
    assert main(["diagnose", target, "--format", "json"]) == ExitCode.USAGE_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("headwater: ")
    assert err.count("\n") == 1
    assert ERRORS[target] in err


@pytest.mark.parametrize("target", ["factories.py:raises", "factories.py:wrong_inputs"])
def test_the_traceback_of_the_users_code_is_one_option_away(folder, capsys, target):
    main(["diagnose", target])
    assert capsys.readouterr().err.endswith(" (--traceback shows where)\n")
    assert main(["diagnose", target, "--traceback"]) == ExitCode.USAGE_ERROR
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert "--traceback" not in err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("target", ["factories.py:on_cuda", "factories.py:loss_on_cuda"])
def test_a_cuda_device_that_is_not_there_gets_one_sentence(folder, capsys, target):
    assert main(["diagnose", target]) == ExitCode.USAGE_ERROR
    assert "asks for a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["missing/run.hw", "pkg"])
def test_an_unwritable_file_is_told_before_the_model_runs(folder, capsys, path):
    assert main(["diagnose", "factories.py:interrupted", "--save", path]) == ExitCode.USAGE_ERROR
    assert capsys.readouterr().err.startswith(f"headwater: cannot write '{path}': ")


def test_a_file_that_cannot_be_written_after_all_is_told_too(folder, capsys):
    assert main(["diagnose", "factories.py:healthy", "--save", os.devnull]) == ExitCode.USAGE_ERROR
    assert capsys.readouterr().err.startswith("headwater: cannot save")


def test_a_process_prints_80_plain_columns_into_a_pipe(folder):
    done = run("diagnose", "factories.py:vanishing", cwd=folder, COLUMNS="200")
    assert done.returncode == ExitCode.FINDINGS
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_ascii_terminal_gets_ascii_and_no_error(folder, environment):
    done = run("diagnose", "factories.py:vanishing", cwd=folder, **environment)
    assert done.returncode == ExitCode.FINDINGS
    assert done.stderr == ""
    assert done.stdout.isascii()
    assert "HW101" in done.stdout


def test_a_reader_that_stops_early_is_no_error(folder):
    command = [sys.executable, "-m", "headwater.cli", "diagnose", "factories.py:vanishing", "--all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == ExitCode.BROKEN_PIPE


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "is_colored"), [("", True), ("1", False)])
def test_a_terminal_gets_colour_unless_no_color_is_set(folder, no_color, is_colored):
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color}
    command = [sys.executable, "-m", "headwater.cli", "diagnose", "factories.py:vanishing"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, cwd=folder, env=environment) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert process.wait() == ExitCode.FINDINGS
    os.close(ours)
    assert (b"\x1b[" in shown) is is_colored


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side has gone
        return b""


def test_lines_prints_the_users_code_with_the_decades_in_the_margin(folder, capsys):
    (folder / "own.py").write_text(
        "import headwater as hw, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(20))\n"
        "    def forward(self, x):\n"
        "        for layer in self.layers:\n"
        "            x = torch.sigmoid(layer(x))\n"
        "        return x\n"
        "def problem():\n"
        "    return hw.Problem(Net(), torch.randn(4, 8))\n"
    )
    assert main(["diagnose", "own.py:problem", "--lines"]) == ExitCode.FINDINGS
    out = capsys.readouterr().out
    (marked,) = [line for line in out.splitlines() if "×20 >│" in line]
    assert marked.endswith("x = torch.sigmoid(layer(x))")
    assert "own.py:8  x = torch.sigmoid(layer(x))" in out  # in the finding


def test_lines_of_a_model_without_code_of_its_own_say_so(folder, capsys):
    assert main(["diagnose", "factories.py:healthy", "--lines"]) == ExitCode.HEALTHY
    assert "No line of your code" in capsys.readouterr().out


def test_select_and_ignore_choose_the_rules(folder, capsys):
    assert main(["diagnose", "factories.py:vanishing", "--select", "HW3,HW4"]) == ExitCode.HEALTHY
    assert "HW101" not in capsys.readouterr().out
    assert main(["diagnose", "factories.py:vanishing", "--ignore", "HW2", "--ignore", "HW4"]) == ExitCode.FINDINGS
    assert "HW401" not in capsys.readouterr().out


def test_an_unknown_code_is_a_usage_error_that_names_the_known_ones(folder, capsys):
    assert main(["diagnose", "factories.py:vanishing", "--select", "HW9"]) == ExitCode.USAGE_ERROR
    assert "no rule has a code that begins with 'HW9'; there are: HW101" in capsys.readouterr().err


def test_sarif_is_one_document_and_nothing_else(folder, capsys):
    assert main(["diagnose", "factories.py:talkative", "--format", "sarif"]) == ExitCode.HEALTHY
    assert _strict_json(capsys.readouterr().out)["version"] == "2.1.0"


def test_a_precision_can_be_asked_about(folder, capsys):
    assert main(["diagnose", "factories.py:healthy", "--precision", "float16"]) == 0
    assert "HW302 underflow" in " ".join(capsys.readouterr().out.partition("not judged")[0].split())
    assert main(["diagnose", "factories.py:healthy", "--precision", "fp16"]) == ExitCode.USAGE_ERROR
    assert "expected the precision to be one of float16" in capsys.readouterr().err
