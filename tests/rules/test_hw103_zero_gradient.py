from __future__ import annotations

import pytest

from headwater.findings import NotApplicable, Severity
from headwater.recording import Context, RecordingBuilder, SignalKind, TensorStats
from headwater.rules import ZeroGradient
from tests.rules.conclusions import assert_well_said, findings, the_finding
from tests.rules.recordings import LOSS, Step, activation, chain, layers, of_norm

RULE = ZeroGradient()
ZERO = of_norm(0.0)
ONES = TensorStats.from_values([1.0] * 4)


def _zero_weight(*, heals):
    return Step(gain=0.0, weight=ZERO, weight_gradient=of_norm(1.0) if heals else ZERO)


def test_a_gradient_that_is_nowhere_zero_is_fine():
    assert RULE.check(chain(layers(5, "Tanh", 0.5))) == []


@pytest.mark.parametrize("gain", [1e-300, 1e-40])
def test_a_tiny_gradient_is_not_zero(gain):
    assert RULE.check(chain([Step(), activation("Tanh", gain), Step()])) == []


def test_the_call_that_turns_it_zero_is_named_and_not_those_before_it():
    finding = the_finding(chain([Step(), activation("Round", 0.0), Step(), activation("Tanh")]), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.modules == ("1",)
    assert "rounding" in finding.cause
    assert_well_said([finding])


def test_softmax_of_one_unit_is_recognised_by_its_ones():
    steps = [Step(), Step(), Step(type="Softmax", gain=0.0, trains=False, output=ONES)]
    finding = the_finding(chain(steps), RULE)
    assert finding.severity is Severity.ERROR
    assert finding.cause == "A softmax over a single unit is 1 whatever its input."


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (activation("ReLU", 0.0), "rectifier"),
        (activation("Sigmoid", 0.0), "so large"),
        (Step(type="LayerNorm", gain=0.0, output=ZERO, weight=of_norm(1.0)), "single element"),
        (activation("Dropout", 0.0), "dropped"),
    ],
)
def test_other_causes_are_told_by_the_type_and_its_output(step, words):
    finding = the_finding(chain([Step(), step, Step()]), RULE)
    assert finding.severity is Severity.ERROR
    assert words in finding.cause


def test_underflow_is_named_where_little_was_left_before():
    steps = [Step(), activation("Tanh", 0.0), *layers(40, "Sigmoid", 0.1)]
    (finding,) = findings(chain(steps), [RULE])
    assert finding.modules == ("1",)
    assert "so large" in finding.cause  # a tanh on its plateau, whatever came after
    (finding,) = findings(chain([Step(), Step(gain=0.0), *layers(40, "Sigmoid", 0.1)]), [RULE])
    assert "smallest number" in finding.cause


def test_an_all_zero_weight_in_a_plain_network_heals_after_one_step_but_is_a_warning():
    finding = the_finding(chain([Step(), _zero_weight(heals=True), Step()]), RULE)
    assert finding.severity is Severity.WARNING
    assert finding.modules == ("1",)
    assert "after one step" in finding.cause
    assert_well_said([finding])


def test_an_all_zero_weight_without_a_gradient_stays_zero():
    finding = the_finding(chain([Step(), _zero_weight(heals=False), Step()]), RULE)
    assert finding.severity is Severity.ERROR
    assert "stays so" in finding.cause


def test_a_zero_head_over_frozen_layers_keeps_the_gradient_from_nobody():
    steps = [Step(trains=False), activation("Tanh"), _zero_weight(heals=True)]
    assert the_finding(chain(steps), RULE).severity is Severity.INFO


def test_a_zero_bias_is_no_reason():
    builder_steps = [Step(), activation("Scale", 0.0), Step()]
    finding = the_finding(chain(builder_steps), RULE)
    assert "parameter" not in finding.cause


class _Blocks:
    """x + branch(x), the sum made by no module, with a chosen gradient at the branch's output and input."""

    def __init__(self, num_blocks=3):
        self.builder = RecordingBuilder()
        root = self.builder.add_module("", "Model", is_leaf=False)
        self.top = self.builder.add_call(root)
        self._norm(root, self.top, SignalKind.ACTIVATION_GRADIENT, 1.0)
        self._leaf(root, "stem", self.top, gradient=1.0)
        for index in range(num_blocks):
            self.block(root, f"blocks.{index}")
        self._leaf(root, "head", self.top, gradient=1.0)

    def block(self, root, name):
        raise NotImplementedError

    def _norm(self, module, depth, kind, norm, tensor=None):
        return self.builder.add_signal(module, kind, of_norm(norm), depth=depth, tensor=tensor)

    def _leaf(self, parent, name, caller, *, gradient, sends=None, weight=1.0, output=1.0, source=None):
        module = self.builder.add_module(name, "Linear", parent=parent)
        depth = self.builder.add_call(module, parent=caller, input_requires_grad=sends is not None)
        read = self._norm(module, depth, SignalKind.INPUT, 1.0, source)
        if sends is not None:
            self._norm(module, depth, SignalKind.INPUT_GRADIENT, sends, read)
        made = self._norm(module, depth, SignalKind.ACTIVATION, output)
        self._norm(module, depth, SignalKind.ACTIVATION_GRADIENT, gradient, made)
        self.builder.add_parameter(module, f"{name}.weight")
        for kind, norm in ((SignalKind.WEIGHT, weight), (SignalKind.WEIGHT_GRADIENT, gradient)):
            self.builder.add_signal(module, kind, of_norm(norm), depth=depth, item="weight")
        return made

    def container(self, root, name):
        module = self.builder.add_module(name, "Block", parent=root, is_leaf=False)
        depth = self.builder.add_call(module, parent=self.top, input_requires_grad=True)
        for kind in (
            SignalKind.INPUT,
            SignalKind.INPUT_GRADIENT,
            SignalKind.ACTIVATION_GRADIENT,
            SignalKind.ACTIVATION,
        ):
            self._norm(module, depth, kind, 1.0)
        return module, depth

    def build(self):
        return self.builder.build(LOSS)


class _ReZero(_Blocks):
    def block(self, root, name):
        module, depth = self.container(root, name)
        self._leaf(module, f"{name}.fc", depth, gradient=0.0)
        self.builder.add_parameter(module, f"{name}.alpha")
        for kind, norm in ((SignalKind.WEIGHT, 0.0), (SignalKind.WEIGHT_GRADIENT, 1.0)):
            self.builder.add_signal(module, kind, of_norm(norm, 1), depth=depth, item="alpha")


class _ZeroLast(_Blocks):
    def block(self, root, name):
        module, depth = self.container(root, name)
        hidden = self._leaf(module, f"{name}.a", depth, gradient=0.0)
        self._leaf(module, f"{name}.b", depth, gradient=1.0, sends=0.0, weight=0.0, output=0.0, source=hidden)


class _Gated(_Blocks):
    """A gate beside the branch returns zeros, since its weight is."""

    def block(self, root, name):
        module, depth = self.container(root, name)
        self._leaf(module, f"{name}.gate", depth, gradient=1.0, sends=0.0, weight=0.0, output=0.0)
        self._leaf(module, f"{name}.fc", depth, gradient=0.0)


@pytest.mark.parametrize(
    ("network", "modules"),
    [
        (_ReZero, [("blocks.0.fc", "blocks.1.fc", "blocks.2.fc")]),
        (_ZeroLast, [("blocks.0.b", "blocks.1.b", "blocks.2.b")]),
        (_Gated, [("blocks.0.gate", "blocks.1.gate", "blocks.2.gate"), ("blocks.0.fc", "blocks.1.fc", "blocks.2.fc")]),
    ],
)
def test_branches_that_start_at_zero_are_one_piece_of_information(network, modules):
    found = findings(network().build(), [RULE])
    assert [finding.severity for finding in found] == [Severity.INFO] * len(modules)
    assert [finding.modules for finding in found] == modules
    assert all("after one step" in finding.cause for finding in found)
    assert_well_said(found)


class _Experts(_Blocks):
    """All read the same; the gates of all but the first are zero."""

    def block(self, root, name):
        self.shared = getattr(self, "shared", 1_000)
        number = int(name[-1])
        self._leaf(root, name, self.top, gradient=1.0 if number == 0 else 0.0, source=self.shared)


def test_an_expert_that_is_masked_out_is_only_worth_knowing():
    finding = the_finding(_Experts().build(), RULE)
    assert finding.severity is Severity.INFO
    assert finding.modules == ("blocks.1", "blocks.2")


class _Dead(_Blocks):
    """A branch whose output is never positive goes through a rectifier that is no module."""

    def block(self, root, name):
        module, depth = self.container(root, name)
        self._leaf(module, f"{name}.fc", depth, gradient=0.0, output=-1.0)


def test_a_branch_whose_functional_rectifier_is_off_is_an_error():
    finding = the_finding(_Dead().build(), RULE)
    assert finding.severity is Severity.ERROR
    assert "rectifier" in finding.cause
    assert finding.modules == ("blocks.0.fc", "blocks.1.fc", "blocks.2.fc")


def test_an_output_that_the_loss_ignores_is_only_worth_knowing():
    builder = RecordingBuilder()
    root = builder.add_module("", "Model", is_leaf=False)
    top = builder.add_call(root)
    for item, (name, norm) in enumerate((("head", 1.0), ("auxiliary", 0.0))):
        module = builder.add_module(name, "Linear", parent=root)
        depth = builder.add_call(module, parent=top)
        for kind, value in ((SignalKind.ACTIVATION, 1.0), (SignalKind.ACTIVATION_GRADIENT, norm)):
            made = builder.add_signal(module, kind, of_norm(value), depth=depth, tensor=item)
            builder.add_signal(root, kind, of_norm(value), depth=top, item=str(item), tensor=made)
    finding = the_finding(builder.build(LOSS), RULE)
    assert finding.severity is Severity.INFO
    assert finding.modules == ("auxiliary",)


@pytest.mark.parametrize(
    ("loss", "output", "severity"),
    [(1.0, 0.3, Severity.ERROR), (0.0, 30.0, Severity.INFO), (0.0, 0.3, Severity.ERROR)],
)
def test_a_loss_without_a_slope_is_told_from_one_that_has_nothing_left_to_learn(loss, output, severity):
    step = Step(output=TensorStats.from_values([output]))
    builder = chain([step], cotangent=0.0, context=Context(cotangent="loss", loss=loss))
    finding = the_finding(builder, RULE)
    assert finding.severity is severity
    assert finding.modules == ("",)
    assert ("single output" in finding.cause) is (loss == 0.0 and output < 1.0)


def test_an_empty_batch_for_an_expert_is_no_zero():
    recording = chain([Step(), Step()])
    builder = RecordingBuilder()
    root = builder.add_module("", "Model")
    depth = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, TensorStats.from_values([]), depth=depth)
    assert RULE.check(recording) == []
    assert RULE.check(builder.build(LOSS)) == []


def test_a_run_on_padding_is_fine_where_another_run_trains_the_module():
    builder = RecordingBuilder()
    root, embed = builder.add_module("", "Model", is_leaf=False), builder.add_module("embed", "Embedding", parent=0)
    top = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=top)
    for norm in (1.0, 0.0):
        depth = builder.add_call(embed, parent=top)
        made = builder.add_signal(embed, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
        builder.add_signal(embed, SignalKind.ACTIVATION_GRADIENT, of_norm(norm), depth=depth, tensor=made)
    assert the_finding(builder.build(LOSS), RULE).severity is Severity.INFO


def test_zeros_that_a_nan_made_are_another_rules():
    assert RULE.check(chain([Step()], cotangent=0.0, context=Context(cotangent="loss", loss=float("nan")))) == []


def test_without_a_backward_pass_it_does_not_apply():
    assert isinstance(RULE.check(RecordingBuilder().build(Context())), NotApplicable)
