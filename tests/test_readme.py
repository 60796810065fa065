"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import nn

import headwater as hw
from headwater.cli import main
from headwater.rules import ALL_RULES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def words(text: str) -> list[str]:
    """The text without what differs from machine to machine: numbers, and bars drawn of them."""
    return [re.sub(r"[-+]?[\d.]+(e-?\d+)?|[█▐▌▒│]|\s+", " ", line).split() for line in text.strip().splitlines()]


def test_the_terminal_output_is_what_the_example_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    shown = next(text for language, text in BLOCKS if not language and "$ headwater diagnose" in text)
    command, _, output = shown.partition("\n")
    assert main(command.split()[2:]) == 1
    assert words(output) == words(capsys.readouterr().out)


def test_the_api_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    examples = [text for language, text in BLOCKS if language == "python" and "my_project" not in text]
    assert len(examples) == 4
    names: dict = {"hw": hw, "criterion": nn.CrossEntropyLoss()}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert names["diagnosis"].findings[0].code == "HW101"
    assert hw.load("run.hw").findings == names["diagnosis"].findings
    assert hw.Comparison.load("comparison.json") == names["comparison"]
    out = capsys.readouterr().out
    assert "HW101" in out
    assert "With 'shortcut' the first layer's gain is " in out


def test_the_codes_are_those_that_there_are() -> None:
    listed = re.findall(r"^\| (HW\d+) \| ([a-z-]+) \|", README, flags=re.MULTILINE)
    assert listed == [(rule.code, rule.name) for rule in ALL_RULES]
    for code, _ in listed:
        assert (ROOT / "docs" / "rules" / f"{code.lower()}.md").exists()
