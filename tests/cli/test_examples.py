from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from headwater.cli import main
from headwater.cli.errors import ExitCode

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_problem_is_found_to_vanish(folder, capsys):
    assert main(["diagnose", f"{EXAMPLES / 'my_problem.py'}:problem"]) == ExitCode.FINDINGS
    assert "HW101 vanishing-gradient" in capsys.readouterr().out


def test_the_notebook_example_prints_the_ten_lines(tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "notebook.py"], capture_output=True, encoding="utf-8", cwd=tmp_path, check=True
    )
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if " has gradient mean of " in line]
    assert len(lines) == 10
    assert lines[0].startswith("layers.0.0.weight has gradient mean of 0.00020174")
    assert lines[5].startswith("layers.0.0.weight has gradient mean of 0.221868")
