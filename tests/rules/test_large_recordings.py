from __future__ import annotations

import pytest

from headwater.findings import Severity
from headwater.recording import RecordingBuilder, SignalKind
from tests.rules.conclusions import findings
from tests.rules.recordings import LOSS, Step, chain, layers, of_norm

NUM_LAYERS = 10_000  # a rule whose work grows with the square of it would hold up the tests for hours


@pytest.mark.parametrize(
    ("gain", "codes"), [(1.0, []), (0.99, ["HW101"]), (0.0, ["HW103"]), (1.01, ["HW102"])], ids=str
)
def test_ten_thousand_layers_are_judged(gain, codes):
    recording = chain(layers(NUM_LAYERS, "ReLU", gain))
    found = [finding for finding in findings(recording) if finding.severity is Severity.ERROR]
    assert [finding.code for finding in found] == codes


def test_ten_thousand_findings_of_one_cause_are_one():
    steps = [Step(gain=0.0, weight=of_norm(0.0)) for _ in range(NUM_LAYERS)]
    assert len(findings(chain(steps))) == 1


def test_ten_thousand_layers_that_nothing_reaches_are_judged():
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    top = builder.add_call(root)
    for index in range(NUM_LAYERS):
        module = builder.add_module(f"layers.{index}", "Linear", parent=root)
        depth = builder.add_call(module, parent=top, output_requires_grad=index % 2 == 0)
        for kind in (SignalKind.INPUT, SignalKind.ACTIVATION):
            builder.add_signal(module, kind, of_norm(1.0), depth=depth)
        builder.add_parameter(module, f"layers.{index}.weight", received_gradient=False)
    assert {finding.code for finding in findings(builder.build(LOSS))} == {"HW401"}


def test_thousands_of_branches_that_are_masked_out_are_one_finding():
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    top = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
    for index in range(3_000):
        module = builder.add_module(f"experts.{index}", "Linear", parent=root)
        depth = builder.add_call(module, parent=top)
        builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=depth, tensor=0)
        made = builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
        gradient = of_norm(1.0 if index == 0 else 0.0)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, gradient, depth=depth, tensor=made)
    (finding,) = findings(builder.build(LOSS))
    assert finding.severity is Severity.INFO
    assert len(finding.modules) == 2_999
