from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

import headwater as hw
from headwater.diagnosis import judge, load
from headwater.recording import RecordingFileError
from headwater.report import render_text
from tests.report.sketch import Sketch, chain, finding


class Fixed:
    """A rule that finds what it was given."""

    code = "HW101"
    name = "vanishing-gradient"

    def __init__(self, *findings):
        self.findings = findings

    def check(self, recording):
        return list(self.findings)


def _network(num_layers=20, width=16):
    torch.manual_seed(0)
    layers = [layer for _ in range(num_layers) for layer in (nn.Linear(width, width), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(width, 3))


@pytest.fixture(scope="module")
def diagnosis():
    targets = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    return hw.diagnose(_network(), inputs, targets, loss=nn.CrossEntropyLoss())


def test_a_network_that_vanishes_is_called_vanishing(diagnosis):
    assert diagnosis.findings[0].code == "HW101"
    assert diagnosis.findings[0].message in " ".join(str(diagnosis).split())
    assert repr(diagnosis) == "<Diagnosis of Sequential: HW101, HW204, HW106>"


def test_diagnose_takes_a_dict_of_inputs_and_needs_no_loss():
    class Adder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, left, right):
            return self.linear(left) + right

    healthy = hw.diagnose(Adder(), {"left": torch.ones(2, 4), "right": torch.ones(2, 4)}, seed=3)
    assert healthy.findings == ()
    assert healthy.recording.context.cotangent == "random"
    assert healthy.recording.context.seed == 3


def test_rules_can_be_chosen():
    chosen = hw.diagnose(_network(1), torch.ones(2, 16), rules=(Fixed(finding("HW101", "0")),))
    assert [verdict.code for verdict in chosen.verdicts] == ["HW101"]
    assert chosen.findings[0].modules == ("0",)


def test_what_cannot_be_run_is_a_problem_error_and_a_value_error():
    with pytest.raises(hw.ProblemError):
        hw.diagnose(_network(1), torch.ones(2, 5))
    assert issubclass(hw.ProblemError, ValueError)


@pytest.mark.parametrize("wrapped", [lambda inputs: inputs, lambda inputs: (inputs,), lambda inputs: {"steps": inputs}])
def test_an_iterator_which_the_first_pass_would_use_up_is_refused_unread(wrapped):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 2)

        def forward(self, steps):
            return sum(self.linear(step) for step in steps)

    steps = iter([torch.ones(2, 16), torch.ones(2, 16)])
    with pytest.raises(hw.ProblemError, match="that can be read again"):
        hw.diagnose(Sums(), wrapped(steps), loss=lambda output: 1e-30 * output.mean())
    assert len(list(steps)) == 2


@pytest.mark.parametrize("samples", [2.5, -1, "16"])
def test_a_number_of_samples_that_is_none_is_refused_at_once(samples):
    with pytest.raises(
        ValueError, match=re.escape(f"a whole number of at least 0 (0 for none) or None, got {samples!r}")
    ):
        hw.diagnose(_network(1), torch.ones(2, 16), samples=samples)


@pytest.mark.parametrize("loss", [None, lambda output: output.square().sum()], ids=["no loss", "loss"])
def test_a_batch_without_samples_is_not_called_healthy(loss):
    with pytest.raises(hw.ProblemError, match="pass at least one sample"):
        hw.diagnose(_network(1), torch.ones(0, 16), loss=loss)


class _Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(16, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, x):
        return x.to(torch.complex64) @ self.weight


def test_a_complex_loss_is_refused_and_complex_parameters_are_named_as_the_reason():
    inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(hw.ProblemError, match=r"a real number, got torch.complex64; take its .real or .abs\(\)"):
        hw.diagnose(_Complex(), inputs, loss=lambda output: output.mean())
    report = str(hw.diagnose(_Complex(), inputs, loss=lambda output: output.abs().mean()))
    assert "no parameter that trains is a plain tensor of real numbers" in " ".join(report.split())


def test_a_saved_diagnosis_is_the_same_when_it_is_loaded(diagnosis, tmp_path):
    diagnosis.save(tmp_path / "run.hw")
    loaded = load(tmp_path / "run.hw")
    assert loaded.findings == diagnosis.findings
    assert loaded.to_dict() == diagnosis.to_dict()
    assert str(loaded) == str(diagnosis)
    assert loaded._repr_html_() == diagnosis._repr_html_()


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    (tmp_path / "run.hw").write_bytes(b"something else")
    with pytest.raises(RecordingFileError):
        load(tmp_path / "run.hw")


def test_loading_and_printing_a_recording_needs_no_torch(diagnosis, tmp_path):
    diagnosis.save(tmp_path / "run.hw")
    script = """
import sys, headwater as hw
d = hw.load(sys.argv[1])
print(d); d._repr_html_(); d.to_dict(); d.to_text(color=True)
print([name for name in ("torch", "matplotlib") if name in sys.modules])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "run.hw")]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert done.stderr == ""
    assert done.stdout == f"{diagnosis}\n[]\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_print_works_on_a_stream_that_has_no_blocks(diagnosis, tmp_path, encoding):
    diagnosis.save(tmp_path / "run.hw")
    command = [
        sys.executable,
        "-c",
        "import sys, headwater as hw; print(hw.load(sys.argv[1]))",
        str(tmp_path / "run.hw"),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.stderr == b""
    printed = done.stdout.decode("ascii").replace(os.linesep, "\n")
    assert printed == diagnosis.to_text(ascii_only=True)


def test_json_is_strict_whatever_the_numbers_are():
    sketch = Sketch()
    root = sketch.call("", gradient=math.inf)
    sketch.call("a", inside=root, rms=math.nan, gradient=0.0, weight=math.nan)
    evidence = {"rate": math.nan, "factor": -math.inf, "where": "a", "count": 3}
    data = judge(sketch.build(loss=math.nan), (Fixed(finding("HW101", "a", evidence=evidence)),)).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["findings"][0]["evidence"] == {"rate": None, "factor": None, "where": "a", "count": 3}
    assert data["context"]["loss"] is None


def test_json_holds_everything_that_the_report_says(diagnosis):
    data = diagnosis.to_dict()
    assert data["schema_version"] == 1
    assert data["context"]["model_type"] == "Sequential"
    assert data["findings"][0]["severity"] == "error"
    codes = {entry["code"] for entry in data["findings"]} | set(data["passed"]) | set(data["not_applicable"])
    assert codes == {verdict.code for verdict in diagnosis.verdicts}
    assert [row["module"] for row in data["profile"]] == [call.module for call in diagnosis.recording.calls]
    assert data["profile"][1]["gain_decades"] == diagnosis.profile.rows[1].gain_decades


def test_rich_prints_the_report(diagnosis):
    stream = StringIO()
    Console(width=100, file=stream).print(diagnosis)
    printed = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert printed == render_text(diagnosis.document, width=100).splitlines()


def test_findings_are_sorted_the_most_severe_first():
    by_severity = [finding("HW101", "0", severity=severity) for severity in hw.Severity]
    sorted_ = judge(chain(-1.0).build(), (Fixed(*by_severity),)).findings
    assert [f.severity for f in sorted_] == sorted(hw.Severity, reverse=True)


def test_an_optimizer_and_a_precision_are_judged_and_saved(tmp_path):
    model = _network(20)
    inputs, targets = torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(32, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = hw.diagnose(model, inputs, targets, loss=nn.CrossEntropyLoss(), optimizer=optimizer, precision="float16")
    assert [finding.code for finding in found.findings] == ["HW101", "HW204", "HW301", "HW302"]
    assert all(verdict.not_applicable is None for verdict in found.verdicts if verdict.code > "HW300")
    found.save(tmp_path / "run.hw")
    assert load(tmp_path / "run.hw").to_dict() == found.to_dict()
