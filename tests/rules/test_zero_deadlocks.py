"""HW103 on parameters that are all zeros and wait for each other, whether modules or functional code read them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import ZeroGradient
from tests.rules.conclusions import alarms, assert_well_said, findings

CLASSES = nn.CrossEntropyLoss()


def judged(model, *, num_positions=6, lines=True):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, num_positions, 16, generator=generator)
    targets = torch.randint(0, 3, (32,), generator=generator)
    return findings(observe(Problem(model, inputs, targets, CLASSES), lines=lines), [ZeroGradient()])


class Attention(nn.Module):
    """One head in a model's own code, by modules or by raw parameters."""

    def __init__(self, *, zeros, raw):
        super().__init__()
        torch.manual_seed(0)
        for name in ("q", "k", "v"):
            layer = nn.Linear(16, 16, bias=False)
            if name in zeros:
                nn.init.zeros_(layer.weight)
            setattr(self, name, nn.Parameter(layer.weight.detach()) if raw else layer)
        self.head, self.raw = nn.Linear(16, 3), raw

    def forward(self, x):
        q, k, v = (x @ w if self.raw else w(x) for w in (self.q, self.k, self.v))
        return self.head((x + (q @ k.transpose(1, 2) / 4).softmax(-1) @ v).mean(1))


class Adapted(nn.Module):
    """A layer with low-rank adapters of raw parameters."""

    def __init__(self, *, a_is_zero, is_dropped=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
        self.a = nn.Parameter(torch.zeros(16, 4) if a_is_zero else torch.randn(16, 4))
        self.b, self.c = nn.Parameter(torch.zeros(4, 16)), nn.Parameter(torch.zeros(4, 16))
        self.is_dropped = is_dropped

    def forward(self, x):
        low = x @ self.a
        branch = low @ self.b + torch.tanh(low) @ self.c
        return self.head(torch.tanh(self.layer(x) + (0.0 if self.is_dropped else 1.0) * branch).mean(1))


class Experts(nn.Module):
    """Two experts that start at zero; the gate lets all samples through to one of three."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(16, 16) for _ in range(3))
        for expert in (self.second, self.third):
            nn.init.zeros_(expert.weight)
            nn.init.zeros_(expert.bias)
        self.gate, self.head = nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x):
        scores = torch.sigmoid(self.gate(x)) * torch.tensor([1.0, 0.0, 0.0])
        outputs = [scores[..., i : i + 1] * one(x) for i, one in enumerate((self.first, self.second, self.third))]
        return self.head((x + sum(outputs)).mean(1))


@pytest.mark.parametrize("raw", [False, True])
def test_query_and_key_that_are_both_zero_never_move(raw):
    (finding,) = judged(Attention(zeros="qk", raw=raw))
    assert finding.severity is Severity.ERROR
    assert "wait" not in finding.message
    assert "multiplied with each other" in finding.cause
    assert all(f"'{name}" in finding.cause for name in "qk")
    assert finding.lines
    assert "q @ k.transpose" in finding.lines[0].code
    assert_well_said([finding])


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("zeros", ["q", "k", "v", ""])
def test_one_zero_factor_is_healthy(zeros, raw):
    assert alarms(judged(Attention(zeros=zeros, raw=raw))) == []


@pytest.mark.parametrize("raw", [False, True])
def test_zero_query_and_key_over_one_position_are_no_alarm(raw):
    """Their gradient is zero whatever they are."""
    assert alarms(judged(Attention(zeros="qk", raw=raw), num_positions=1)) == []


def test_an_adapter_of_two_zeros_never_moves():
    (finding,) = judged(Adapted(a_is_zero=True))
    assert finding.severity is Severity.ERROR
    assert "'a'" in finding.cause
    assert "inside a branch" in finding.message
    assert "low @ self.b" in finding.lines[0].code
    assert_well_said([finding])


class Gated(nn.Module):
    """A layer with a gated adapter of raw parameters; a mask of the data may shut the adapter out."""

    def __init__(self, *, last_is_zero, gate=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.a, self.shift = (
            nn.Linear(16, 16),
            nn.Parameter(torch.randn(16, 4)),
            nn.Parameter(torch.zeros(16)),
        )
        self.b = nn.Parameter(torch.zeros(4, 16) if last_is_zero else torch.randn(4, 16))
        self.gate = nn.Parameter(torch.full((1,), gate))

    def forward(self, x, mask=1.0):
        return self.layer(x) + torch.tanh(self.gate) * ((mask * x) @ self.a @ self.b + self.shift)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(16, 3)

    def forward(self, x):
        return self.linear(torch.tanh(x).mean(1))


def test_a_gate_and_a_matrix_that_are_both_zero_never_move():
    (finding,) = judged(nn.Sequential(Gated(last_is_zero=True), Head()))
    assert finding.severity is Severity.ERROR
    assert "'0.b' and '0.gate'" in finding.cause or "'0.gate' and '0.b'" in finding.cause
    assert_well_said([finding])
    assert alarms(judged(nn.Sequential(Gated(last_is_zero=False), Head()))) == []
    assert alarms(judged(nn.Sequential(Gated(last_is_zero=True, gate=1.0), Head()))) == []


def test_a_gate_over_what_is_masked_out_in_this_batch_is_no_deadlock():
    """The shift beside it is zero, too, but is multiplied with nothing of its own: another batch moves the gate."""
    x, targets = torch.randn(40, 16), torch.randn(40, 16)
    inputs = {"x": x, "mask": torch.zeros(40, 1)}
    recording = observe(Problem(Gated(last_is_zero=False), inputs, targets, nn.MSELoss()), lines=True)
    assert alarms(findings(recording, [ZeroGradient()])) == []


def test_the_same_deadlock_in_many_blocks_is_one_finding():
    torch.manual_seed(0)
    (finding,) = judged(nn.Sequential(*[Gated(last_is_zero=True) for _ in range(4)], Head()))
    assert finding.modules == ("0", "1", "2", "3")
    assert "and so are those of 3 products more" in finding.cause
    assert finding.evidence["num_calls"] == 4
    assert_well_said([finding])


@pytest.mark.parametrize("is_dropped", [False, True])
def test_adapters_that_start_at_one_zero_are_healthy(is_dropped):
    assert alarms(judged(Adapted(a_is_zero=False, is_dropped=is_dropped))) == []


def test_experts_that_start_at_zero_and_are_not_chosen_are_healthy():
    assert alarms(judged(Experts())) == []


def test_adapters_of_modules_are_told_as_before():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 4, bias=False), nn.Linear(4, 16, bias=False)
            self.head = nn.Linear(16, 3)
            nn.init.zeros_(self.a.weight)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            return self.head(F.relu(self.layer(x) + self.b(self.a(x))).mean(1))

    (finding,) = judged(Wrapped())
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("b",))
