from __future__ import annotations

import io
import sys

import pytest

from headwater.cli.errors import CommandError
from headwater.cli.output import WIDTH, check_writable, is_colored, prepare_streams, width


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_character_that_the_encoding_lacks_is_replaced_by_one_of_the_same_width(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    prepare_streams()
    print("−3.66 × │ ██▌ → σ…", flush=True)
    assert raw.getvalue() == b"-3.66 x | ### > ?.\n"


def test_an_encoding_that_has_the_characters_is_left_alone(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    prepare_streams()
    print("−3.66 ×", flush=True)
    assert raw.getvalue().decode() == "−3.66 ×\n"


def test_undecodable_bytes_are_not_for_the_writer_to_repair():
    prepare_streams()
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", errors="headwater-similar")


def test_streams_of_other_kinds_are_left_alone(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    prepare_streams()
    print("─", end="")
    assert sys.stdout is stream
    assert stream.getvalue() == "─"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_a_terminal_is_coloured_unless_the_environment_says_no(monkeypatch, environment, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_colored(Terminal()) is expected
    assert not is_colored(io.StringIO())


def test_a_pipe_is_80_columns_wide_whatever_the_terminal_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert width(io.StringIO()) == WIDTH
    assert width(Terminal()) == 100
    monkeypatch.setenv("COLUMNS", "300")
    assert width(Terminal()) == 120


def test_a_file_that_can_be_written_passes(tmp_path):
    check_writable(tmp_path / "new.hw")
    (tmp_path / "old.hw").write_text("kept")
    check_writable(tmp_path / "old.hw")
    assert (tmp_path / "old.hw").read_text() == "kept"


def test_a_missing_folder_and_a_folder_are_no_files_to_write(tmp_path):
    with pytest.raises(CommandError, match="there is no folder"):
        check_writable(tmp_path / "missing" / "run.hw")
    with pytest.raises(CommandError, match="it is a folder; name a file"):
        check_writable(tmp_path)
