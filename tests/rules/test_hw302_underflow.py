from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from headwater.capture import Problem, ProblemError, observe, record
from headwater.capture.moments import measure
from headwater.findings import NotApplicable, Severity
from headwater.recording import Combine, Context, RecordingBuilder, SignalKind
from headwater.recording.float_formats import FLOAT_FORMATS
from headwater.rules import Underflow
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy
from tests.rules.conclusions import alarms, assert_well_said, findings, the_finding
from tests.rules.recordings import Step, chain

RULE = Underflow()
WARNING, ERROR = Severity.WARNING, Severity.ERROR


def _built(*gradients, dtype="float32", precision="float16", context=None, scale_exponent=0):
    """A chain of layers with these tensors as their activation gradients."""
    builder = RecordingBuilder()
    root = builder.add_module("", "Sequential", is_leaf=False)
    top = builder.add_call(root)
    for index, gradient in enumerate(gradients):
        module = builder.add_module(str(index), "Linear", parent=root)
        depth = builder.add_call(module, parent=top)
        stats = measure(gradient, exponents=True).scaled_by_power_of_two(-scale_exponent)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, stats, depth=depth, dtype=dtype)
    if precision:
        builder.add_series("precision", [1.0], item=precision, combine=Combine.MAXIMUM)
    default = Context(cotangent="loss", loss=1.0, backward_scale_exponent=scale_exponent)
    return builder.build(default if context is None else context)


def _normal(sigma, num=50_000, seed=0):
    return sigma * torch.randn(num, generator=torch.Generator().manual_seed(seed))


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "severity"), [(2.0**-20, None), (2.0**-23, None), (2.0**-24, WARNING), (2.0**-25, ERROR)]
)
def test_a_deviation_of_the_smallest_number_is_a_warning_and_half_of_it_an_error(sigma, severity):
    found = findings(_built(_normal(1.0), _normal(0.99 * sigma)), [RULE])
    assert [(f.severity, f.modules) for f in found] == ([(severity, ("1",))] if severity else [])
    assert_well_said(found)


def test_the_share_that_is_said_is_the_error_function():
    finding = the_finding(_built(_normal(2.0**-24 * 0.999, 400_000)), RULE)
    expected = math.erf(2.0**-25 / (0.999 * 2.0**-24 * math.sqrt(2.0)))
    assert finding.evidence["percent_lost"] == pytest.approx(100.0 * expected, abs=0.3)
    assert expected == pytest.approx(0.383, abs=1e-3)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("largest", [1.0, 0.01, 20.0])
def test_the_loss_scale_that_is_named_saves_the_small_ones_and_does_not_push_the_large_ones_over_the_top(name, largest):
    form = FLOAT_FORMATS[name]
    small = _normal(2.0 ** (form.smallest_exponent - 2))
    large = torch.cat([_normal(2.0 ** (form.smallest_exponent - 1)), torch.full((1,), largest)])
    finding = next(f for f in findings(_built(small, large, precision=name), [RULE]) if "rounded to zero" in f.message)
    exponent = int(finding.evidence["loss_scale_exponent"])
    left = []
    for values in (small, large):
        scaled = (values.double() * 2.0**exponent).float()
        rounded = scaled.to(getattr(torch, name)).double()
        left.append(float(((rounded == 0) & (values != 0)).double().mean()))
        assert rounded.isfinite().all()
        assert scaled.abs().max() <= form.largest
    assert finding.evidence["percent_lost_with_loss_scale"] == pytest.approx(100.0 * max(left), abs=0.01)
    is_saved = max(left) <= RULE.saved_entries
    assert ("saves it" in finding.cause) == is_saved
    if not is_saved:
        assert exponent == form.largest_scale_exponent(float(large.max()))
    assert_well_said([finding])


def test_with_no_room_for_a_larger_loss_no_scale_is_recommended():
    finding = findings(_built(_normal(2.0**-25), torch.full((64,), 40_000.0)), [RULE])[0]
    assert "leaves no room" in finding.cause
    assert not any("Multiply" in remedy for remedy in finding.remedies)


def test_entries_that_weigh_nothing_are_no_loss():
    # a confident classifier: almost every probability is tiny
    gradient = torch.cat([torch.full((990,), 1e-12), torch.full((10,), 0.1)])
    assert RULE.check(_built(gradient)) == []


def test_numbers_past_the_largest_are_found():
    finding = the_finding(_built(_normal(1e5)), RULE)
    assert finding.severity is ERROR
    largest = float(_normal(1e5).abs().max())
    exponent = int(finding.evidence["loss_scale_exponent"])
    assert largest * 2.0**exponent <= 65504.0 < largest * 2.0 ** (exponent + 1)
    assert_well_said([finding])


def test_a_handful_of_entries_says_nothing():
    assert RULE.check(_built(torch.full((31,), 1e-9))) == []
    assert the_finding(_built(torch.full((32,), 1e-9)), RULE).severity is ERROR


@pytest.mark.parametrize(("sigma", "severity"), [(2.0**-22, None), (0.9 * 2.0**-24, WARNING), (0.9 * 2.0**-25, ERROR)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_gradient_in_float16_is_judged_by_the_entries_next_to_zero(sigma, severity, masked):
    gradient = _normal(sigma).half()
    if masked:
        gradient[::2] = 0.0
    found = findings(_built(gradient, dtype="float16", precision=None), [RULE])
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert all("are rounded to zero" in finding.message for finding in found)
    assert_well_said(found)


def test_zeros_of_a_rectifier_in_float16_are_no_underflow():
    gradient = _normal(0.01).half()
    gradient[: len(gradient) // 10 * 9] = 0.0
    assert RULE.check(_built(gradient, dtype="float16", precision=None)) == []


def test_a_pass_that_ran_on_a_larger_loss_is_judged_by_the_loss_as_it_is():
    gradient = _normal(2.0**-16).half()
    assert RULE.check(_built(gradient, dtype="float16", precision=None)) == []
    finding = the_finding(_built(gradient, dtype="float16", precision=None, scale_exponent=10), RULE)
    assert finding.severity is ERROR


@pytest.mark.parametrize(
    ("recording", "words"),
    [
        (RecordingBuilder().build(), "no backward pass"),
        (chain([Step()]), "pass precision='float16'"),
        (_built(_normal(1e-9), context=Context(cotangent="random")), "pass loss="),
    ],
)
def test_where_it_does_not_apply_it_says_what_to_pass(recording, words):
    verdict = RULE.check(recording)
    assert isinstance(verdict, NotApplicable)
    assert words in verdict.reason


def test_a_float16_gradient_without_exponents_does_not_apply():
    model = nn.Linear(4, 4).half()
    with record(model) as recorder:
        model(torch.ones(2, 4).half()).sum().backward()
    verdict = RULE.check(recorder.recording)
    assert isinstance(verdict, NotApplicable)
    assert "exponents" in verdict.reason


# --- real networks --------------------------------------------------------------------------------------------------


def _net(num_layers=4, width=64):
    torch.manual_seed(0)
    return broken.plain(nn.ReLU, num_layers, width, broken.he)


def _seen(model, factor, precision=None, dtype=torch.float32):
    inputs = broken.gaussian(32, 64).to(dtype)
    loss = lambda output: factor * output.float().square().mean()  # noqa: E731
    return observe(Problem(model, inputs, loss=loss), precision=precision)


def test_a_small_loss_underflows_in_float16_and_the_scale_that_is_named_saves_it():
    model = _net()
    finding = the_finding(_seen(model, 1e-6, "float16"), RULE)
    assert finding.severity is ERROR
    scale = float(finding.evidence["loss_scale"])

    def share_lost(factor):
        model.zero_grad()
        (factor * model(broken.gaussian(32, 64)).square().mean()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        return max(float((g.half() == 0)[g != 0].double().mean()) for g in gradients)

    assert share_lost(1e-6) > 0.68
    assert share_lost(1e-6 * scale) <= 0.01
    assert RULE.check(_seen(model, 1e-6 * scale, "float16")) == []
    assert RULE.check(_seen(model, 1e-6, "bfloat16")) == []


def test_a_network_that_runs_in_float16_is_judged_without_being_asked():
    assert RULE.check(_seen(_net().half(), 1.0, dtype=torch.float16)) == []
    found = findings(_seen(_net().half(), 3e-6, dtype=torch.float16), [RULE])
    assert [finding.severity for finding in found] == [ERROR]
    assert_well_said(found)


@pytest.mark.parametrize("factor", [1e-6, 3e-6])
def test_what_float16_would_lose_is_what_it_loses(factor):
    asked, ran = (
        the_finding(recording, RULE)
        for recording in (_seen(_net(), factor, "float16"), _seen(_net().half(), factor, dtype=torch.float16))
    )
    assert asked.severity is ran.severity is ERROR
    assert asked.evidence["percent_lost"] == pytest.approx(ran.evidence["percent_lost"], abs=5.0)
    assert asked.evidence["loss_scale_exponent"] == pytest.approx(ran.evidence["loss_scale_exponent"], abs=1)


@pytest.mark.parametrize("factor", [1e-7, 1e-6, 1e-5, 1e-4, 1.0])
def test_a_small_loss_in_float16_makes_no_number_that_is_none(factor):
    recording = _seen(_net().half(), factor, dtype=torch.float16)
    assert not any(signal.stats.nonfinite_count for signal in recording)


def test_a_loss_in_float16_is_scaled_within_float16():
    model = nn.Linear(4, 4).half()
    problem = Problem(model, torch.ones(1, 4).half(), loss=lambda output: (output * 2.0**-23).sum())
    recording = observe(problem)
    assert recording.context.backward_scale_exponent == 15  # 2**21 would be near one, and is no number of float16
    (slope,) = recording.select(SignalKind.ACTIVATION_GRADIENT, depth=0)
    assert slope.stats.norm == 2.0**-22


def test_a_precision_that_there_is_not_is_a_problem():
    with pytest.raises(ProblemError, match="expected the precision to be one of float16"):
        observe(Problem(_net(), broken.gaussian(2, 64)), precision="fp16")


HEALTHY = {
    "LoRA": (healthy.Lora, broken.gaussian(16, 16)),
    "ReZero": (lambda: healthy.residual(scale=0.0), broken.gaussian(64, 16)),
    "Fixup": (healthy.fixup, broken.gaussian(64, 16)),
    "zero gamma": (healthy.zero_gamma, broken.gaussian(4, 3, 8, 8)),
    "experts": (healthy.SparseExperts, broken.gaussian(64, 8)),
    "an attention key bias": (lambda: healthy.CausalAttention(width=64), broken.gaussian(4, 5, 64)),
    "LayerScale": (lambda: healthy.residual(num_blocks=20, scale=1e-6), broken.gaussian(64, 16)),
    "convolutions": (healthy.convolutional, broken.gaussian(8, 3, 32, 32)),
    "He": (lambda: broken.plain(nn.ReLU, 34, 128, broken.he), broken.gaussian(32, 128)),
}


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_is_no_alarm(name, precision):
    torch.manual_seed(0)
    make, inputs = HEALTHY[name]
    problem = Problem(make(), inputs, loss=lambda output: (output - 1.0).square().mean())
    assert alarms(findings(observe(problem, precision=precision), [RULE])) == []


def test_what_is_lost_in_a_branch_that_is_scaled_down_is_only_worth_knowing():
    torch.manual_seed(0)
    problem = Problem(
        healthy.residual(num_blocks=20, scale=1e-6), broken.gaussian(64, 16), loss=lambda y: y.square().mean()
    )
    finding = the_finding(observe(problem, precision="float16"), RULE)
    assert finding.severity is Severity.INFO
    assert "scaled down" in finding.cause
    assert_well_said([finding])
