from __future__ import annotations

import json
import subprocess
import sys

import pytest

import headwater as hw
from headwater.cli import main
from headwater.cli.errors import ExitCode
from headwater.recording import RecordingBuilder, save


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.hw"
    builder = RecordingBuilder()
    builder.add_call(builder.add_module("", "Linear"))
    save(builder.build(), path)
    return path


def test_a_saved_recording_is_printed_as_its_diagnosis(saved, capsys):
    assert main(["report", str(saved)]) == ExitCode.HEALTHY
    assert capsys.readouterr().out == hw.load(saved).to_text()


def test_json_is_the_diagnosis_as_data(saved, capsys):
    assert main(["report", str(saved), "--format", "json"]) == ExitCode.HEALTHY
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(hw.load(saved).to_dict()))


def test_a_report_needs_no_torch(saved):
    script = "import sys; from headwater.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, "report", str(saved)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("damage", [b"", b"PK", b"not a recording at all"])
def test_a_file_that_is_no_recording_gets_one_sentence(tmp_path, capsys, damage):
    path = tmp_path / "run.hw"
    path.write_bytes(damage)
    assert main(["report", str(path)]) == ExitCode.USAGE_ERROR
    _assert_one_sentence(capsys, str(path))


def test_a_truncated_recording_gets_one_sentence(saved, capsys):
    saved.write_bytes(saved.read_bytes()[:-40])
    assert main(["report", str(saved)]) == ExitCode.USAGE_ERROR
    _assert_one_sentence(capsys, str(saved))


def test_a_missing_file_and_a_folder_get_one_sentence(tmp_path, capsys):
    for path in (tmp_path / "missing.hw", tmp_path):
        assert main(["report", str(path)]) == ExitCode.USAGE_ERROR
        _assert_one_sentence(capsys, str(path))


def _assert_one_sentence(capsys, part):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("headwater: ")
    assert err.count("\n") == 1
    assert part in err
