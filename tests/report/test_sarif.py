from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import headwater as hw
from tests.capture import planted_faults
from tests.rules import broken_networks as broken


@pytest.fixture
def sarif(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    torch.manual_seed(0)
    diagnosis = hw.diagnose(broken.DetachedInForward(), torch.randn(64, 8))
    return json.loads(json.dumps(diagnosis.to_sarif(), allow_nan=False))


def test_it_is_one_run_of_sarif_2_1_0_with_every_rule_that_was_asked(sarif):
    assert sarif["version"] == "2.1.0"
    assert sarif["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = sarif["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "headwater"
    assert "HW401" in [rule["id"] for rule in rules]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"error", "warning", "note"}
        assert result["message"]["text"]


def test_a_finding_stands_at_the_line_of_the_source(sarif):
    (result,) = [result for result in sarif["runs"][0]["results"] if result["ruleId"] == "HW401"]
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"] == {
        "uri": "tests/rules/broken_networks.py",
        "uriBaseId": "%SRCROOT%",
    }
    line = location["physicalLocation"]["region"]["startLine"]
    assert "detach()" in Path("tests/rules/broken_networks.py").read_text().splitlines()[line - 1]
    assert {"fullyQualifiedName": "first", "kind": "module"} in location["logicalLocations"]


def test_a_file_elsewhere_is_named_by_its_whole_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    diagnosis = hw.diagnose(planted_faults.InALoop(), torch.randn(16, 8))
    (run,) = diagnosis.to_sarif()["runs"]
    artifact = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": Path(planted_faults.__file__).as_uri()}


def test_without_lines_a_finding_has_its_modules_only():
    model = nn.Sequential(*[m for _ in range(20) for m in (nn.Linear(8, 8), nn.Sigmoid())])
    (run,) = hw.diagnose(model, torch.randn(8, 8), lines=False).to_sarif()["runs"]
    (location,) = run["results"][0]["locations"]
    assert list(location) == ["logicalLocations"]


def test_the_fingerprint_of_a_finding_stays_the_same():
    def fingerprints(seed):
        torch.manual_seed(seed)
        (run,) = hw.diagnose(broken.DetachedInForward(), torch.randn(64, 8)).to_sarif()["runs"]
        return [result["partialFingerprints"] for result in run["results"] if result["ruleId"] == "HW401"]

    assert fingerprints(0) == fingerprints(1)
