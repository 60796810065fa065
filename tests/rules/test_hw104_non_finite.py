from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import headwater
from headwater.findings import NotApplicable, Severity
from headwater.recording import Context, RecordingBuilder, TensorStats
from headwater.rules import NonFinite
from tests.rules.conclusions import assert_well_said, the_finding
from tests.rules.recordings import LOSS, Step, activation, chain, changed

RULE = NonFinite()
NAN = TensorStats.from_values([math.nan, 1.0, 1.0, 1.0])
INF = TensorStats.from_values([-math.inf, 1.0, 1.0, 1.0])
STEPS = [Step(), activation("Exp"), Step(), activation("Softmax"), Step()]


def _with(context=LOSS, **places):
    """A chain of five calls in which signals are not finite: `activation_1=NAN` is that of the call at depth 1."""
    bad = {tuple(name.rsplit("_", 1)): stats for name, stats in places.items()}
    base = chain(STEPS, context=context)
    return changed(base, lambda s: bad.get((str(s.kind), str(s.depth)), s.stats))


def _forward(first, last, stats=NAN, **more):
    """Not finite from the output of one call to that of another, as dataflow hands it on."""
    places = {f"activation_{depth}": stats for depth in range(first, last + 1)}
    places |= {f"input_{depth + 1}": stats for depth in range(first, last + 1) if depth < 5}
    return _with(**{**places, **more})


def test_a_finite_recording_is_fine():
    assert RULE.check(_with()) == []


def test_the_first_call_that_makes_nan_is_named_and_not_those_that_hand_it_on():
    finding = the_finding(_forward(2, 5, activation_0=NAN, weight_gradient_3=NAN), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("1",)
    assert finding.evidence["phase"] == "in the forward pass"
    assert finding.message.endswith("in the forward pass: 1 NaN and 0 Inf of 4 values.")
    assert_well_said([finding])


def test_nan_that_something_masks_later_is_a_warning():
    finding = the_finding(_forward(2, 3), RULE)
    assert finding.severity is Severity.WARNING
    assert "masks it later" in finding.message


def test_infinities_of_a_mask_are_fine():
    assert RULE.check(_forward(3, 3, stats=INF)) == []


def test_infinite_logits_are_fine_as_long_as_the_loss_and_every_gradient_are_finite():
    assert RULE.check(_with(activation_5=INF, activation_0=INF)) == []


def test_an_infinite_output_is_a_warning_if_no_gradient_tells_more():
    builder = RecordingBuilder()
    root = builder.add_module("", "Model")
    builder.add_signal(root, "activation", INF, depth=builder.add_call(root))
    finding = the_finding(builder.build(), RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("",))


def test_an_infinity_that_becomes_nan_is_the_origin():
    places = {"activation_2": INF, "input_3": INF, "activation_3": NAN, "input_4": NAN, "activation_4": NAN}
    assert the_finding(_with(**places, weight_gradient_1=NAN), RULE).modules == ("1",)


def test_a_softmax_over_a_row_that_is_masked_throughout_is_the_origin_and_not_the_mask():
    places = {"activation_3": INF, "input_4": INF, "activation_4": NAN, "input_5": NAN, "activation_5": NAN}
    assert the_finding(_with(**places, activation_0=NAN), RULE).modules == ("3",)


def test_an_operation_between_two_modules_is_placed_between_them():
    base = _forward(3, 5, activation_0=NAN)
    fresh = changed(base, lambda s: s.stats)
    builder = RecordingBuilder()
    root, first, second = (
        builder.add_module("", "Model", is_leaf=False),
        builder.add_module("a", "Linear", parent=0),
        builder.add_module("b", "Linear", parent=0),
    )
    top = builder.add_call(root)
    for module, read, made in ((first, None, None), (second, NAN, NAN)):
        depth = builder.add_call(module, parent=top)
        for kind, stats in (("input", read), ("activation", made)):
            builder.add_signal(module, kind, stats or TensorStats.from_values([1.0]), depth=depth)
    finding = the_finding(builder.build(Context(cotangent="loss", loss=math.nan)), RULE)
    assert finding.modules == ("", "a", "b")
    assert "in the forward of the model" in finding.cause
    assert the_finding(fresh, RULE).modules == ("2",)


def test_the_first_call_in_backward_order_is_named():
    places = {f"activation_gradient_{depth}": NAN for depth in (1, 2)}
    places |= {"input_gradient_2": NAN, "input_gradient_3": NAN, "weight_gradient_1": NAN}
    finding = the_finding(_with(**places), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("2",)
    assert finding.evidence["phase"] == "in the backward pass"


def test_a_gradient_that_a_rectifier_masks_is_minor():
    assert the_finding(_with(input_gradient_3=NAN, activation_gradient_2=NAN), RULE).severity is Severity.WARNING


def test_an_operation_behind_a_module_is_told_from_the_module():
    finding = the_finding(_with(activation_gradient_3=NAN, input_gradient_3=NAN, weight_gradient_3=NAN), RULE)
    assert finding.modules == ("2",)
    assert "behind that module" in finding.cause


def test_a_loss_whose_derivative_is_not_finite_is_told():
    places = {f"activation_gradient_{depth}": NAN for depth in range(6)}
    finding = the_finding(_with(**places, weight_gradient_5=NAN), RULE)
    assert finding.modules == ("4",)
    assert "derivative of the loss" in finding.cause


def test_a_weights_own_gradient_can_be_the_only_one():
    finding = the_finding(_with(weight_gradient_3=INF), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("2",)
    assert "'2.weight'" in finding.message


def test_weights_that_were_broken_before_come_first():
    finding = the_finding(_forward(1, 5, activation_0=NAN, weight_1=NAN), RULE)
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("0",))
    assert finding.evidence["phase"] == "before the pass"


def test_a_nan_in_the_data_is_not_blamed_on_the_model():
    finding = the_finding(_forward(1, 5, activation_0=NAN, input_0=NAN, input_1=NAN), RULE)
    assert finding.modules == ("",)
    assert finding.cause == "The data hold it."


def test_missing_values_that_the_model_reads_and_fills_are_fine():
    assert RULE.check(_with(input_0=NAN, input_1=NAN)) == []


def test_a_loss_that_is_not_finite_although_the_output_is():
    finding = the_finding(_with(context=Context(cotangent="loss", loss=math.inf)), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.message == "The loss is the first value that is not finite, in the forward pass."


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_an_infinite_activation_that_ends_in_the_loss_is_an_error(loss):
    finding = the_finding(_forward(2, 5, stats=INF, context=Context(cotangent="loss", loss=loss)), RULE)
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("1",))


def test_a_recording_without_calls_is_beyond_it():
    assert isinstance(RULE.check(RecordingBuilder().build()), NotApplicable)


def test_a_loss_that_is_not_finite_is_told_before_the_gradient_that_comes_of_it():
    places = {f"activation_gradient_{depth}": NAN for depth in range(6)}
    context = Context(cotangent="loss", loss=-math.inf)
    finding = the_finding(_with(context=context, **places, weight_gradient_5=NAN), RULE)
    assert finding.message.startswith("The loss is the first value that is not finite")


def _log_of_zero(probabilities, targets):
    chosen = nn.functional.one_hot(targets, 4) * torch.log(probabilities)  # the log of 0
    return -chosen.sum(1).mean()


def _masked_and_divided_by_a_count_of_zero(probabilities, targets):
    scores = probabilities.masked_fill(targets[:, None] >= 0, -math.inf)
    return (scores.exp().sum(1) / (targets > 9).sum()).mean()  # the log of 0


def _masked_and_the_log_of_zero(probabilities, targets):
    mask = torch.where(targets[:, None] >= 9, -math.inf, 0.0)
    others = torch.where(targets[:, None] >= 0, -math.inf, 0.0).exp()
    return (mask.exp() - probabilities.log() + others).mean()  # the log of 0


@pytest.mark.parametrize("loss", [_log_of_zero, _masked_and_divided_by_a_count_of_zero, _masked_and_the_log_of_zero])
@pytest.mark.parametrize("is_masked_inside", [False, True])
def test_the_line_of_the_loss_that_leaves_its_domain_is_named(loss, is_masked_inside):
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x):
            scores = 1e4 * self.layer(x)
            masked = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1) > 0.0, -math.inf).softmax(1)
            return torch.softmax(scores, 1) @ (masked if is_masked_inside else torch.eye(4)).diag().diag()

    torch.manual_seed(0)
    diagnosis = headwater.diagnose(Certain(), torch.randn(16, 8), torch.arange(16) % 4, loss=loss)
    finding = next(finding for finding in diagnosis.findings if finding.code == "HW104")
    assert finding.message.startswith("The loss is the first value that is not finite")
    assert [line.code.partition("  # ")[2] for line in finding.lines] == ["the log of 0"]
    assert " in the loss leaves its domain" in finding.cause
    assert_well_said([finding])
