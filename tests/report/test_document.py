from __future__ import annotations

import math

import pytest

from headwater.analysis import depth_profile
from headwater.findings import Severity
from headwater.recording import Context, RecordingBuilder, SignalKind
from headwater.report import document
from tests.report.examples import document_of
from tests.report.sketch import Sketch, chain, finding, stats


def _row(recording, name):
    return next(row for row in document_of(recording).rows if row.name == name)


@pytest.mark.parametrize(
    ("gain", "strength"),
    [
        (-0.4, "about as strong as at the output"),
        (0.4, "about as strong as at the output"),
        (-2.34, "2.3 decades weaker than at the output"),
        (1.0, "1.0 decades stronger than at the output"),
    ],
)
def test_a_healthy_model_is_told_how_strong_the_gradient_is_at_its_first_layer(gain, strength):
    healthy = document_of(chain(gain, 0.0, types=("Linear",)).build())
    assert healthy.answer == f"The gradient reaches every layer: at the first it is {strength}."
    assert healthy.is_healthy
    assert healthy.severity is None


def test_the_worst_finding_is_the_answer_and_the_first_to_be_told():
    mild = finding("HW101", "0", severity=Severity.WARNING, message="Mild.")
    bad = finding("HW104", "0", message="Bad.")
    found = document_of(chain(-1.0, 0.0).build(), mild, bad)
    assert found.answer == "Bad."
    assert [group.code for group in found.findings] == ["HW104", "HW101"]
    assert found.counts == ("error HW104 non-finite", "warning HW101 vanishing-gradient")


def test_what_is_only_worth_knowing_is_not_the_answer():
    found = document_of(chain(-2.5, 0.0).build(), finding("HW101", "0", severity=Severity.INFO))
    assert found.answer == "Nothing alarming: at the first layer the gradient is 2.5 decades weaker than at the output."
    assert not found.is_healthy


def test_without_a_backward_pass_nothing_is_called_healthy():
    sketch = Sketch()
    sketch.call("", gradient=None)
    forward = document_of(sketch.build(cotangent="none"))
    assert forward.answer == "No backward pass was recorded: only the forward signal could be judged."
    assert not forward.is_healthy


def test_without_rules_nothing_is_called_healthy():
    recording = chain(-9.0, 0.0).build()
    unjudged = document(recording, (), depth_profile(recording))
    assert unjudged.answer == "No rule was asked to judge it."
    assert not unjudged.is_healthy


def test_findings_that_differ_only_in_their_place_are_told_together():
    found = [
        finding(
            "HW201", str(index), severity=Severity.WARNING, message=f"{index} is dead.", cause=f"Cause {index % 2}."
        )
        for index in range(20)
    ]
    (group,) = document_of(chain(*([0.0] * 20)).build(), *found).findings
    assert len(group.messages) == 20
    assert group.causes == ("Cause 0.", "Cause 1.")
    short = group.shortened()
    assert short.messages[-1] == "and 16 more like these"
    assert short.modules[-1] == "and 14 more"


def test_rules_that_do_not_apply_for_the_same_reason_share_a_line():
    reasons = [("HW101", "no backward pass"), ("HW102", "no backward pass"), ("HW201", "no rectifier")]
    told = document_of(chain(0.0).build(), not_applicable=reasons)
    assert told.not_applicable == (
        ("no backward pass", ("HW101 vanishing-gradient", "HW102 exploding-gradient")),
        ("no rectifier", ("HW201 dead-units",)),
    )
    assert told.passed == ("HW103 zero-gradient", "HW104 non-finite", "HW401 unreached-parameter")


def test_names_are_relative_to_the_caller_and_later_calls_are_numbered():
    sketch = Sketch()
    root = sketch.call("")
    block = sketch.call("h.0", "Block", inside=root)
    for _ in range(2):
        sketch.call("h.0.act", "ReLU", inside=block)
    sketch.call("shared", "Linear", inside=block)
    names = [row.name for row in document_of(sketch.build()).rows]
    assert names == ["Net", "h.0", "act", "act #2", "shared"]


def test_remarks_say_what_a_row_lacks():
    sketch = Sketch()
    root = sketch.call("")
    frozen = sketch.call("frozen", "Sequential", inside=root, gradient=None)
    sketch.call("frozen.0", inside=frozen, gradient=None, trains=False)
    cut = sketch.call("cut", "Sequential", inside=root, gradient=None)
    sketch.call("cut.act", "Tanh", inside=cut, gradient=None)
    sketch.call("cut.lin", inside=cut, gradient=None)
    sketch.parameter("cut.lin")
    sketch.call("zero", inside=root, gradient=0.0)
    sketch.call("nan", inside=root, rms=math.nan)
    sketch.call("inf", inside=root, gradient=math.inf)
    remarks = {row.name: row.remarks for row in document_of(sketch.build()).rows}
    assert remarks == {
        "Net": (),
        "frozen": (),
        "0": ("frozen",),
        "cut": ("no grad",),
        "act": (),
        "lin": ("no grad",),
        "zero": ("zero",),
        "nan": ("NaN",),
        "inf": ("Inf",),
    }


def test_a_gradient_without_a_finite_element_has_a_norm_that_says_so_and_no_gain():
    sketch = Sketch()
    root = sketch.call("")
    sketch.call("nan", inside=root, gradient=math.nan)
    sketch.call("inf", inside=root, gradient=math.inf)
    recording = sketch.build()
    assert (_row(recording, "nan").gradient_norm, _row(recording, "inf").gradient_norm) == ("nan", "inf")
    assert _row(recording, "nan").gain_decades is None


def test_modules_that_never_ran_come_last_with_what_their_weights_got():
    sketch = Sketch()
    sketch.call("")
    for index in range(10):
        sketch.module(f"experts.{index}", "Expert")
        sketch.parameter(f"experts.{index}.up")
        sketch.parameter(f"experts.{index}.down", gradient=0.5 if index == 3 else None)
    found = finding("HW401", "experts.9.up", severity=Severity.WARNING)
    rows = document_of(sketch.build(), found).rows
    assert [(row.name, row.type) for row in rows] == [("Net", ""), ("experts", "ModuleList")]
    assert rows[1].weight_gradient == "0.500"
    assert (rows[1].codes, rows[1].remarks) == (("HW401",), ("not called",))


def test_many_modules_that_never_ran_are_folded_and_those_with_findings_named():
    sketch = Sketch()
    root = sketch.call("")
    sketch.call("experts.0", "Expert", inside=root)
    for index in range(1, 21):
        sketch.module(f"experts.{index}", "Expert")
        sketch.parameter(f"experts.{index}")
    found = finding("HW401", "experts.15", severity=Severity.WARNING)
    document_ = document_of(sketch.build(), found)
    fold = document_.rows[-1]
    assert fold.name == "14 more, experts.7 to experts.20: not called"
    assert fold.details == ("HW401 at experts.15",)
    assert len(document_.all_rows) == 22


def test_a_parameter_list_is_not_blamed_for_not_being_called():
    sketch = Sketch()
    sketch.call("")
    sketch.module("weights", "ParameterList")
    sketch.parameter("weights", gradient=0.25)
    row = document_of(sketch.build()).rows[-1]
    assert (row.name, row.weight_gradient, row.remarks) == ("weights", "0.250", ())


def test_the_shape_of_a_model_that_returns_its_loss_first_is_that_of_its_output():
    builder = RecordingBuilder()
    depth = builder.add_call(builder.add_module("", "Net"))
    builder.add_signal(0, SignalKind.ACTIVATION, stats(1, 2.0), depth=depth, item="loss", shape=())
    builder.add_signal(0, SignalKind.ACTIVATION, stats(8, 1.0), depth=depth, item="logits", shape=(2, 4))
    assert _row(builder.build(Context(model_type="Net")), "Net").shape == "2x4"
