from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import headwater
from headwater.findings import NotApplicable, Severity
from headwater.recording import Context, RecordingBuilder, SignalKind
from headwater.rules import UnreachedParameter
from tests.rules.conclusions import assert_well_said, findings, the_finding
from tests.rules.recordings import LOSS, Step, chain, of_norm

RULE = UnreachedParameter()


class _Model:
    """Modules under a root, each added with the flags of its call (None: it never ran)."""

    def __init__(self):
        self.builder = RecordingBuilder()
        self.root = self.builder.add_module("", "Model", is_leaf=False)
        self.top = self.builder.add_call(self.root)

    def module(self, name, type="Linear", *, reached=True, trains=True, parent=None, **flags):
        module = self.silent(name, type, parent=parent)
        depth = self.builder.add_call(module, parent=self.top, **{"input_requires_grad": True, **flags})
        read = self.builder.add_signal(module, SignalKind.INPUT, of_norm(1.0), depth=depth, shape=(2, 2))
        made = self.builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=depth, shape=(2, 2))
        if trains is not None:
            self.parameter(module, f"{name}.weight", reached=reached, trains=trains)
        return read, made

    def silent(self, name, type="Linear", *, parent=None, trains=None):
        module = self.builder.add_module(name, type, parent=self.root if parent is None else parent)
        if trains is not None:
            self.parameter(module, f"{name}.weight", reached=False, trains=trains)
        return module

    def parameter(self, module, name, *, reached, trains=True):
        self.builder.add_parameter(module, name, requires_grad=trains, received_gradient=reached)

    def build(self, context=LOSS):
        return self.builder.build(context)


def _cut_at(name, type="Tanh", **flags):
    model = _Model()
    model.module("first", reached=False, input_requires_grad=False)
    model.module(name, type, trains=None, output_requires_grad=False, **flags)
    model.module("last", input_requires_grad=False)
    return model.build()


def test_everything_reached_is_fine():
    model = _Model()
    model.module("a")
    assert RULE.check(model.build()) == []


def test_a_frozen_parameter_is_not_asked_for():
    model = _Model()
    model.module("a", reached=False, trains=False)
    model.module("b")
    assert RULE.check(model.build()) == []


def test_a_module_that_never_ran_is_a_warning():
    model = _Model()
    model.module("a")
    model.silent("forgotten", trains=True)
    finding = the_finding(model.build(), RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("forgotten",))
    assert "never ran" in finding.cause
    assert_well_said([finding])


@pytest.mark.parametrize("name", ["experts.{}", "experts.expert_{}"])
def test_an_expert_that_was_not_chosen_is_only_worth_knowing(name):
    model = _Model()
    experts = model.silent("experts", "ModuleList")
    model.module(name.format(0), "Expert", parent=experts)
    for index in (1, 2):
        expert = model.silent(name.format(index), "Expert", parent=experts)
        model.silent(f"{name.format(index)}.fc", parent=expert, trains=True)
    finding = the_finding(model.build(), RULE)
    assert finding.severity is Severity.INFO
    assert finding.modules == (f"{name.format(1)}.fc", f"{name.format(2)}.fc")


def test_the_cutting_call_is_the_culprit_and_comes_first():
    finding = the_finding(_cut_at("cut"), RULE)
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("cut", "first"))
    assert "detach()" in finding.cause
    assert_well_said([finding])


def test_integers_are_told_from_a_detached_tensor():
    assert "argmax" in the_finding(_cut_at("choose", "ArgMax", output_is_floating=False), RULE).cause


def test_of_an_island_without_gradients_the_outermost_call_is_named():
    model = _Model()
    builder = model.builder
    encoder, inner = model.silent("encoder", "Encoder"), model.silent("encoder.fc")
    model.parameter(inner, "encoder.fc.weight", reached=False)
    caller = model.top
    for module in (encoder, inner):
        caller = builder.add_call(module, parent=caller, grad_enabled=False, output_requires_grad=False)
        builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=caller)
    model.module("head", input_requires_grad=False)
    finding = the_finding(model.build(), RULE)
    assert finding.modules == ("encoder", "encoder.fc")
    assert "gradients off" in finding.cause


def test_a_caller_of_the_cutting_call_is_not_blamed():
    model = _Model()
    outer = model.silent("outer", "Sequential")
    caller = model.builder.add_call(outer, parent=model.top, input_requires_grad=True, output_requires_grad=False)
    model.builder.add_signal(outer, SignalKind.ACTIVATION, of_norm(1.0), depth=caller)
    model.top = caller
    model.module("outer.first", reached=False, parent=outer)
    model.module("outer.cut", "Tanh", parent=outer, trains=None, output_requires_grad=False)
    assert the_finding(model.build(), RULE).modules == ("outer.cut", "outer.first")


def test_a_cut_in_the_callers_own_forward_is_placed_between_two_modules():
    model = _Model()
    model.module("first", reached=False, input_requires_grad=False)
    model.module("second", input_requires_grad=False)
    finding = the_finding(model.build(), RULE)
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("", "first", "second"))
    assert "Between 'first' (Linear) and 'second' (Linear)" in finding.cause


def test_an_output_that_nobody_uses_is_a_warning():
    model = _Model()
    model.module("used")
    model.module("ignored", reached=False)
    finding = the_finding(model.build(), RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("ignored",))
    assert "does not depend" in finding.cause


def test_a_parameter_that_its_module_does_not_use_is_told_from_a_cut():
    model = _Model()
    model.module("cut", "Tanh", trains=None, output_requires_grad=False)
    module = model.silent("norm")
    depth = model.builder.add_call(module, parent=model.top)
    model.builder.add_signal(module, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
    for name, reached in (("norm.weight", True), ("norm.spare", False)):
        model.parameter(module, name, reached=reached)
    finding = the_finding(model.build(), RULE)
    assert finding.severity is Severity.WARNING
    assert "did not use" in finding.cause


def test_each_cause_is_one_finding():
    model = _Model()
    model.module("used")
    for index in range(5):
        model.module(f"ignored_{index}", reached=False)
    model.silent("forgotten", trains=True)
    found = findings(model.build(), [RULE])
    assert [len(finding.modules) for finding in found] == [5, 1]
    assert "and 2 more" in found[0].message
    assert_well_said(found)


def test_gradients_of_the_users_own_pass_are_enough_to_judge():
    model = _Model()
    model.silent("forgotten", trains=True)
    assert isinstance(RULE.check(model.build(Context())), NotApplicable)
    assert RULE.check(chain([Step()], context=Context())) == []


def test_hundreds_of_nested_callers_are_no_problem():
    builder = RecordingBuilder()
    parent = depth = -1
    for level in range(3_000):
        parent = builder.add_module("a" * (level > 0) + ".a" * (level - 1), "Sequential", parent=parent)
        depth = builder.add_call(parent, parent=depth, input_requires_grad=True, output_requires_grad=False)
        builder.add_signal(parent, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
    builder.add_parameter(parent, "w", received_gradient=False)
    assert the_finding(builder.build(LOSS), RULE).severity is Severity.ERROR


def test_layers_before_the_one_that_stands_before_a_cut_have_the_same_cause():
    model = _Model()
    model.module("first", reached=False, input_requires_grad=False, output_requires_grad=True)
    model.module("second", reached=False, output_requires_grad=True)
    model.module("third", reached=False, output_requires_grad=True)
    model.module("last", input_requires_grad=False)
    finding = the_finding(model.build(), RULE)
    assert finding.modules == ("", "third", "last", "first", "second")
    assert finding.evidence["num_parameters"] == 3


def test_an_unused_head_is_not_told_of_a_cut_behind_layers_that_train():
    model = _Model()
    model.module("ignored", reached=False, output_requires_grad=True)
    model.module("trained", output_requires_grad=True)
    model.module("last", input_requires_grad=False)
    assert "does not depend" in the_finding(model.build(), RULE).cause


class _CutInForward(nn.Module):
    """Two layers, a cut, and a last layer."""

    def __init__(self, cut):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.cut = cut

    def forward(self, x):
        return self.last(self.cut(self.second(torch.tanh(self.first(x)))))


@pytest.mark.parametrize(
    ("cut", "operation"),
    [
        (lambda x: x.detach(), "Tensor.detach"),
        (lambda x: (x > 0).float(), "Tensor.gt"),
        (lambda x: (~(x > 0) | (x == 2.0)).to(x), "Tensor.gt"),
        (lambda x: torch.where(x.ge(0.5), 1.0, -1.0), "Tensor.ge"),
        (lambda x: x.round().int().float(), "Tensor.int"),
        (lambda x: torch.tensor(x.tolist()), "Tensor.tolist"),
        (lambda x: torch.nn.functional.one_hot(x.argmax(-1), 8).float(), "Tensor.argmax"),
    ],
)
def test_a_diagnosis_names_the_operation_that_cuts_and_its_line(cut, operation):
    diagnosis = headwater.diagnose(_CutInForward(cut), torch.randn(16, 8, generator=torch.Generator().manual_seed(0)))
    cuts = [finding for finding in diagnosis.findings if finding.code == "HW401"]
    assert [finding.modules for finding in cuts] == [("", "second", "last", "first")]
    assert operation in cuts[0].cause
    assert [line.code for line in cuts[0].lines] == [inspect.getsource(cut).strip()]


def test_a_mask_beside_a_cut_is_not_taken_for_one():
    model = _CutInForward(lambda x: (x * (x > 0)).detach())
    diagnosis = headwater.diagnose(model, torch.randn(16, 8))
    assert [f.cause.rpartition(" cut ")[2] for f in diagnosis.findings if f.code == "HW401"] == ["by Tensor.detach."]


class _Written(nn.Module):
    """A forward written by hand over named modules."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.by_hand = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.by_hand(self, x)


def _unreached(model):
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    return [finding for finding in headwater.diagnose(model, x, samples=0).findings if finding.code == "HW401"]


def _gated(gate):
    return _Written(
        lambda own, x: own.out(own.way(x) * gate(own.gate(x))),
        gate=nn.Linear(8, 8),
        way=nn.Linear(8, 8),
        out=nn.Linear(8, 1),
    )


@pytest.mark.parametrize(
    ("gate", "operation"),
    [
        (lambda g: (torch.sigmoid(g) > 0.5).float(), "Tensor.gt"),
        (lambda g: g.mean().item(), "Tensor.item"),
        (lambda g: torch.nn.functional.one_hot(g.argmax(-1), 8), "Tensor.argmax"),
        (lambda g: torch.nn.functional.one_hot(torch.argmax(input=g, dim=-1), 8), "torch.argmax"),
        (lambda g: g.detach().exp(), "Tensor.detach"),
        (lambda g: torch.tensor(g.tolist()), "Tensor.tolist"),
    ],
)
def test_a_cut_beside_a_living_way_is_named_with_its_line(gate, operation):
    (finding,) = _unreached(_gated(gate))
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("gate",))
    assert operation in finding.cause
    assert [line.code for line in finding.lines] == [inspect.getsource(gate).strip()]


def test_what_is_only_ignored_is_told_from_what_is_cut():
    model = _Written(lambda own, x: (own.gate(x), own.out(x))[1], gate=nn.Linear(8, 8), out=nn.Linear(8, 1))
    assert "does not depend" in _unreached(model)[0].cause


def test_a_layer_whose_data_the_users_forward_reads_is_the_users_affair():
    model = _Written(
        lambda own, x: own.out(torch.nn.functional.linear(x, own.layer.weight.data, own.layer.bias)),
        layer=nn.Linear(8, 8),
        out=nn.Linear(8, 1),
    )
    (finding,) = _unreached(model)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("layer",))
    assert "Tensor.data" in finding.cause
    assert "own.layer.weight.data" in finding.lines[0].code


def test_a_weight_that_the_users_forward_leaves_out_is_the_users_affair():
    model = _Written(
        lambda own, x: own.out(torch.nn.functional.layer_norm(x, (8,), None, own.norm.bias)),
        norm=nn.LayerNorm(8),
        out=nn.Linear(8, 1),
    )
    (finding,) = _unreached(model)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("norm",))


@pytest.mark.parametrize("layer", [lambda own, x: own(x), lambda own, x: x + torch.relu(own(x))])
def test_an_index_that_stays_the_same_in_a_loop_is_no_choice(layer):
    def forward(own, x):
        for _ in own.layers:
            x = layer(own.layers[0], x)
        return own.out(x)

    model = _Written(forward, layers=nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), out=nn.Linear(8, 1))
    (finding,) = _unreached(model)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("layers.1", "layers.2"))
    assert "same index" in finding.cause


def test_an_expert_that_runs_for_many_samples_leaves_the_others_unchosen():
    model = _Written(
        lambda own, x: own.out(torch.stack([own.experts[i % 2](row) for i, row in enumerate(x)])),
        experts=nn.ModuleList(nn.Linear(8, 8) for _ in range(4)),
        out=nn.Linear(8, 1),
    )
    (finding,) = _unreached(model)
    assert (finding.severity, finding.modules) == (Severity.INFO, ("experts.2", "experts.3"))


def test_one_block_without_gradients_around_many_layers_is_one_finding():
    def forward(own, x):
        with torch.no_grad():
            for layer in own.layers:
                x = torch.relu(layer(x))
        return own.out(x)

    model = _Written(forward, layers=nn.ModuleList(nn.Linear(8, 8) for _ in range(30)), out=nn.Linear(8, 1))
    (finding,) = _unreached(model)
    assert finding.severity is Severity.ERROR
    assert finding.cause == "'layers.0' (Linear) and 29 calls after it ran with gradients off."
    assert finding.evidence["num_parameters"] == 60


@pytest.mark.parametrize(("is_short", "words"), [(False, "ends in its first round"), (True, "leaves it out")])
def test_a_loop_that_leaves_layers_out_is_a_warning_with_its_line(is_short, words):
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), nn.Linear(8, 2)

    class ReturnsTooEarly(Stack):
        def forward(self, x):  # noqa: RET503 - the fault
            for layer in self.layers:
                x = torch.relu(layer(x))
                return self.head(x)  # in the loop

    class StopsTooEarly(Stack):
        def forward(self, x):
            for layer in self.layers[:1]:  # in the loop
                x = torch.relu(layer(x))
            return self.head(x)

    model = StopsTooEarly() if is_short else ReturnsTooEarly()
    finding = the_finding(headwater.diagnose(model, torch.ones(4, 8)).recording, RULE)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("layers.1", "layers.2"))
    assert words in finding.cause
    assert [line.code.partition("  # ")[2] for line in finding.lines] == ["in the loop"]
    assert_well_said([finding])


class _Heads(nn.Module):
    """Heads in a dict, of which a forward takes one."""

    def __init__(self, take):
        super().__init__()
        self.body, self.take = nn.Linear(8, 8), take
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 2), "b": nn.Linear(8, 2), "c": nn.Sequential(nn.Linear(8, 2))})

    def forward(self, x):
        return self.take(self, torch.relu(self.body(x)))


_TASK = "b"


@pytest.mark.parametrize(
    ("take", "severity"),
    [
        (lambda model, x: model.heads[_TASK](x), Severity.INFO),
        (lambda model, x: sum(head(x) for name, head in model.heads.items() if name == _TASK), Severity.INFO),
        (lambda model, x: model.heads["b"](x), Severity.WARNING),
        (lambda model, x: model.heads.b(x), Severity.WARNING),
    ],
    ids=["a variable", "a condition", "a constant", "an attribute"],
)
def test_an_entry_of_a_dict_is_chosen_where_its_key_is_no_constant(take, severity):
    finding = the_finding(headwater.diagnose(_Heads(take), torch.ones(4, 8)).recording, RULE)
    assert (finding.severity, finding.modules) == (severity, ("heads.a", "heads.c.0"))
    assert_well_said([finding])
