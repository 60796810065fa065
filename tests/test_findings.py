from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest

from headwater.findings import Finding, NotApplicable, RuleVerdict, Severity, judge
from headwater.recording import RecordingBuilder
from headwater.rules import ALL_RULES

FINDING = Finding(
    code="HW999",
    name="example",
    severity=Severity.WARNING,
    modules=("layers.0",),
    cause="A reason.",
    message="It happened 3 times.",
    evidence={"num_times": 3},
    remedies=("Stop it.",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """A rule that says what it is told to."""

    code: ClassVar[str] = "HW999"
    name: ClassVar[str] = "example"

    verdict: list[Finding] | NotApplicable

    def check(self, recording):
        return self.verdict


@pytest.fixture
def recording():
    return RecordingBuilder().build()


def test_severities_are_ordered():
    assert Severity.INFO < Severity.WARNING < Severity.ERROR


def test_findings_are_the_rules_own(recording):
    assert judge(recording, [Says(verdict=[FINDING])]) == (RuleVerdict("HW999", "example", (FINDING,), None),)


def test_nothing_found_is_not_the_same_as_not_applicable(recording):
    nothing, not_applicable = judge(recording, [Says(verdict=[]), Says(verdict=NotApplicable("no backward pass"))])
    assert nothing.findings == not_applicable.findings == ()
    assert nothing.not_applicable is None
    assert not_applicable.not_applicable == "no backward pass"


def test_verdicts_come_in_the_order_of_the_rules(recording):
    codes = [verdict.code for verdict in judge(recording, ALL_RULES)]
    assert codes == [rule.code for rule in ALL_RULES] == sorted(codes)


def test_an_empty_recording_is_beyond_every_rule(recording):
    assert all(verdict.not_applicable for verdict in judge(recording, ALL_RULES))


def test_rules_and_findings_cannot_be_changed():
    for value, field in [(FINDING, "severity"), *((rule, "code") for rule in ALL_RULES)]:
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(value, field, None)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)
def test_a_rule_names_each_threshold_in_its_docstring(rule):
    for field in dataclasses.fields(rule):
        assert f"{field.name}:" in str(type(rule).__doc__)


def test_a_rule_that_fails_keeps_the_others_from_nothing(recording):
    class Failing:
        code: ClassVar[str] = "HW999"
        name: ClassVar[str] = "failing"

        def check(self, recording):
            raise ZeroDivisionError("division by zero")

    rules = ALL_RULES
    with pytest.warns(RuntimeWarning, match=r"^HW999: the rule failed, which is a bug in headwater.*division by zero"):
        failed, *others = judge(recording, [Failing(), *rules])
    assert (failed.code, failed.findings) == ("HW999", ())
    assert "bug in headwater" in (failed.not_applicable or "")
    assert tuple(others) == judge(recording, rules)
