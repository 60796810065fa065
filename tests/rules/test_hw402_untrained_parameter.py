from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe, record
from headwater.findings import NotApplicable, Severity
from headwater.recording import Combine, RecordingBuilder
from headwater.rules import UntrainedParameter
from tests.rules.broken_networks import gaussian
from tests.rules.conclusions import assert_well_said, the_finding

RULE = UntrainedParameter()
SAMPLES = gaussian(8, 4)


def _built(held, *, frozen=(), foreign=0, unregistered=None):
    """A model with one linear module for each flag."""
    builder = RecordingBuilder()
    builder.add_module("", "Model", is_leaf=False)
    for index, flag in enumerate(held):
        module = builder.add_module(str(index), "Linear", parent=0)
        builder.add_parameter(module, f"{index}.weight", shape=(3, 2), requires_grad=index not in frozen)
        builder.add_series("in_optimizer", [flag], module=module, item="weight", combine=Combine.MAXIMUM)
    if held:
        builder.add_series("num_foreign_parameters", [foreign], combine=Combine.MAXIMUM)
    for kind, count in (unregistered or {}).items():
        builder.add_series("num_unregistered_parameters", [count], item=kind, combine=Combine.MAXIMUM)
    return builder.build()


def test_all_in_the_optimizer_is_fine():
    assert RULE.check(_built([1, 1])) == []


def test_a_frozen_parameter_may_be_missing():
    assert RULE.check(_built([1, 0], frozen={1})) == []


def test_some_missing_is_a_warning_with_their_names_and_their_share():
    finding = the_finding(_built([1, 0, 1, 0]), RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("1", "3"))
    assert finding.evidence["percent_of_weights"] == 50.0
    assert "'1.weight' and '3.weight'" in finding.message
    assert_well_said([finding])


def test_none_held_is_an_error():
    finding = the_finding(_built([0, 0]), RULE)
    assert finding.severity is Severity.ERROR
    assert_well_said([finding])


def test_frozen_parameters_in_the_optimizer_do_not_make_it_train_something():
    assert the_finding(_built([1, 0], frozen={0}), RULE).severity is Severity.ERROR


def test_parameters_of_others_are_named_as_the_cause():
    finding = the_finding(_built([0, 0], foreign=2), RULE)
    assert "2 parameters that are not the model's" in finding.cause


def test_unregistered_modules_are_a_warning_without_an_optimizer_too():
    finding = the_finding(_built([], unregistered={"Linear": 40, "LayerNorm": 8}), RULE)
    assert (finding.severity, finding.modules, finding.evidence["num_weights"]) == (Severity.WARNING, ("",), 48)
    assert "'Linear' and 'LayerNorm'" in finding.message
    assert_well_said([finding])


def test_without_an_optimizer_it_does_not_apply_and_says_what_to_pass():
    verdict = RULE.check(_built([]))
    assert isinstance(verdict, NotApplicable)
    assert "pass optimizer= to diagnose()" in verdict.reason


# --- real networks --------------------------------------------------------------------------------------------------


def _seen(model, parameters):
    optimizer = torch.optim.SGD(parameters, 0.1)
    return observe(Problem(model, SAMPLES, loss=lambda y: y.square().mean(), optimizer=optimizer))


def _net():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def test_a_layer_that_was_added_after_the_optimizer_was_built():
    model = _net()
    parameters = list(model.parameters())
    model[2] = nn.Linear(4, 2)
    finding = the_finding(_seen(model, parameters), RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("2",))
    assert "before parameters of this one were replaced" in finding.cause


def test_the_optimizer_of_another_copy_of_the_model():
    finding = the_finding(_seen(_net(), _net().parameters()), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.evidence["num_foreign_parameters"] == 4


def _compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.Sequential, _compiled, nn.utils.parametrizations.weight_norm])
def test_a_model_that_was_wrapped_has_its_parameters_in_the_optimizer(wrap):
    model = wrap(nn.Linear(4, 4))
    assert RULE.check(_seen(model, model.parameters())) == []


def test_layers_in_a_plain_list_are_named_by_type():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = [nn.Linear(4, 4) for _ in range(3)]
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            for block in self.blocks:
                x = torch.tanh(block(x))
            return self.head(x)

    model = Listed()
    finding = the_finding(_seen(model, model.parameters()), RULE)
    assert (finding.severity, finding.evidence["num_weights_Linear"]) == (Severity.WARNING, 60)
    with record(model) as recorder:
        model(SAMPLES).sum().backward()
    assert the_finding(recorder.recording, RULE).message == finding.message


class CentreLoss(nn.Module):
    """Draws samples to a centre that is learnt, with a temperature that is not (Wen et al. 2016)."""

    def __init__(self):
        super().__init__()
        self.centre, self.temperature = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, output):
        return (output - self.centre).square().mean() / self.temperature


@pytest.mark.parametrize("is_held", [False, True])
def test_parameters_of_the_loss_must_be_in_the_optimizer_too(is_held):
    model, loss = nn.Linear(4, 4), CentreLoss()
    optimizer = torch.optim.SGD([*model.parameters(), *(loss.parameters() if is_held else ())], lr=0.1)
    recording = observe(Problem(model, SAMPLES, loss=loss, optimizer=optimizer))
    if is_held:
        assert RULE.check(recording) == []
        return
    finding = the_finding(recording, RULE)
    assert (finding.severity, finding.evidence["num_elements"]) == (Severity.WARNING, 4)
    assert "SGD does not hold 1 parameter of the loss: 'centre' (4 numbers)" in finding.message
    assert_well_said([finding])
    assert isinstance(RULE.check(observe(Problem(model, SAMPLES, loss=loss))), NotApplicable)
