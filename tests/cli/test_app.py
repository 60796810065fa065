from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

import headwater as hw
from headwater.cli import app, main
from headwater.cli.errors import CommandError, ExitCode
from tests.cli.programs import run


def test_help_names_every_command_and_does_not_import_torch_numpy_or_rich(tmp_path):
    script = (
        "import sys; from headwater.cli import main; code = main(['--help'])\n"
        "print([name for name in ('torch', 'numpy', 'rich', 'matplotlib', 'sklearn') if name in sys.modules])\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.endswith("\n[]\n")
    for command in ("demo", "diagnose", "report", "env"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", ["demo", "diagnose", "report", "env"])
def test_every_command_has_help(capsys, command):
    assert main([command, "--help"]) == ExitCode.HEALTHY
    assert capsys.readouterr().out.startswith(f"Usage: headwater {command}")


def test_version_is_the_packages(capsys):
    assert main(["--version"]) == ExitCode.HEALTHY
    assert capsys.readouterr().out == f"headwater {hw.__version__}\n"


def test_no_command_at_all_is_a_usage_error_with_the_help(capsys):
    assert main([]) == ExitCode.USAGE_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: headwater")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["diagnos"], "No such command 'diagnos'"),
        (["diagnose"], "Missing argument 'TARGET'"),
        (["diagnose", "a:b", "--forma", "json"], "No such option"),
        (["diagnose", "a:b", "--format", "xml"], "'xml' is not one of 'text', 'json'"),
        (["diagnose", "a:b", "--fail-on", "fatal"], "'fatal' is not one of"),
        (["diagnose", "a:b", "--seed", "one"], "'one' is not a valid integer"),
        (["diagnose", "a:b", "c:d"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence_and_where_to_look(capsys, arguments, part):
    assert main(arguments) == ExitCode.USAGE_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("headwater: ")
    assert err.count("\n") == 1
    assert part in err
    assert "--help' shows what there is)" in err


def _command_that_raises(monkeypatch, error):
    def callback():
        raise error

    monkeypatch.setitem(app.headwater.commands, "fail", click.Command("fail", callback=callback))


def test_ctrl_c_ends_with_130_and_without_a_traceback(capsys, monkeypatch):
    _command_that_raises(monkeypatch, KeyboardInterrupt())
    assert main(["fail"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "headwater: interrupted\n"


def test_a_bug_of_ours_is_not_taken_for_a_finding(capsys, monkeypatch):
    _command_that_raises(monkeypatch, RuntimeError("unforeseen"))
    assert main(["fail"]) == ExitCode.BUG
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("headwater: this is a bug in headwater, please report it: RuntimeError: unforeseen\n")


def test_an_error_without_a_cause_does_not_offer_a_traceback(capsys, monkeypatch):
    _command_that_raises(monkeypatch, CommandError("there is no such thing"))
    assert main(["fail"]) == ExitCode.USAGE_ERROR
    assert capsys.readouterr().err == "headwater: there is no such thing\n"


def test_ctrl_c_in_a_process_ends_with_130(folder):
    done = run("diagnose", "factories.py:interrupted", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "headwater: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_output_is_one_sentence(folder):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "headwater.cli", "env"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=folder,
            text=True,
            check=False,
        )
    assert done.returncode == ExitCode.USAGE_ERROR
    assert done.stderr == (
        "headwater: cannot write the output: No space left on device; free space, or send it elsewhere\n"
    )


def test_a_closed_pipe_is_quiet(folder):
    command = [sys.executable, "-m", "headwater.cli", "env"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder) as process:
        process.stdout.close()  # nobody reads, as after `| head`
        assert process.stderr.read() == b""
        assert process.wait() == ExitCode.BROKEN_PIPE
