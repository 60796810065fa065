"""HW201 and HW202 judge what a fused recurrent module computes inside, as far as its output tells."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from headwater.capture import Problem, observe, record
from headwater.findings import NotApplicable, Severity
from headwater.rules import DeadUnits, SaturatedActivation
from tests.rules.conclusions import assert_well_said, the_finding

SETTINGS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True, "num_layers": 2},
    "batch first": {"batch_first": True},
}


class Tagger(nn.Module):
    """Reads all outputs of a recurrent module; packed where lengths are given."""

    def __init__(self, rnn, lengths=None):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 2)
        self.lengths = lengths

    def forward(self, x):
        outputs, _ = self.rnn(x if self.lengths is None else pack_padded_sequence(x, self.lengths))
        return self.head(outputs.data if self.lengths is not None else outputs)


def seen(model, scale=1.0, seed=0):
    inputs = scale * torch.randn(12, 16, 8, generator=torch.Generator().manual_seed(seed))
    return observe(Problem(model, inputs, loss=lambda output: output.square().mean()))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_tanh_that_saturates_inside_is_found_and_one_that_does_not_is_fine(name):
    torch.manual_seed(0)
    model = Tagger(nn.RNN(8, 32, **SETTINGS[name]))
    finding = the_finding(seen(model, scale=500.0), SaturatedActivation())
    assert finding.severity >= Severity.WARNING
    assert finding.modules == ("rnn",)
    assert "recurrent weights" in finding.cause
    assert_well_said([finding])
    for scale in (0.0, 1.0, 5.0):
        assert SaturatedActivation().check(seen(model, scale)) == []


def test_recurrent_weights_alone_can_saturate_it():
    torch.manual_seed(0)
    model = Tagger(nn.RNN(8, 32))
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(100.0)
    assert the_finding(seen(model), SaturatedActivation()).severity >= Severity.WARNING


def test_the_mean_derivative_is_that_of_the_steps_taken_one_by_one():
    torch.manual_seed(0)
    rnn = nn.RNN(8, 32)
    inputs = 200.0 * torch.randn(12, 16, 8, generator=torch.Generator().manual_seed(0))
    h, derivatives = torch.zeros(16, 32, dtype=torch.float64), []
    weights = [value.detach().double() for value in rnn.parameters()]
    for x in inputs.double():
        h = torch.tanh(x @ weights[0].T + weights[2] + h @ weights[1].T + weights[3])
        derivatives.append(1.0 - h * h)
    finding = the_finding(observe(Problem(Tagger(rnn), inputs)), SaturatedActivation())
    expected = 100.0 * torch.stack(derivatives).mean().item()
    assert finding.evidence["mean_derivative_percent"] == pytest.approx(expected, rel=1e-3)


def test_packed_sequences_are_judged_too():
    torch.manual_seed(0)
    model = Tagger(nn.RNN(8, 32), lengths=[12] * 8 + [5] * 8)
    assert the_finding(seen(model, scale=500.0), SaturatedActivation()).modules == ("rnn",)


def test_a_cell_with_tanh_is_judged_at_each_of_its_calls():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.RNNCell(8, 32), nn.Linear(32, 2)

        def forward(self, x):
            h = x.new_zeros(16, 32)
            for step in x:
                h = self.cell(step, h)
            return self.head(h)

    torch.manual_seed(0)
    model = Loop()
    assert SaturatedActivation().check(seen(model)) == []
    finding = the_finding(seen(model, scale=500.0), SaturatedActivation())
    assert (finding.modules, finding.evidence["num_calls"]) == (("cell",), 12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_of_gates_it_is_said_that_they_cannot_be_seen(kind):
    verdict = SaturatedActivation().check(seen(Tagger(kind(8, 16)), scale=500.0))
    assert isinstance(verdict, NotApplicable)
    assert f"cannot see inside of {kind.__name__}" in verdict.reason


def test_without_lines_it_is_said_of_a_fused_attention_that_it_cannot_be_seen():
    attention, x = nn.MultiheadAttention(8, 2), torch.ones(3, 2, 8)
    with record(attention) as recorder:
        attention(x, x, x)[0].sum().backward()
    verdict = SaturatedActivation().check(recorder.recording)
    assert isinstance(verdict, NotApplicable)
    assert "cannot see inside of MultiheadAttention" in verdict.reason
    bare = SaturatedActivation().check(seen(nn.Linear(8, 2)))
    assert isinstance(bare, NotApplicable)
    assert "inside" not in bare.reason


@pytest.mark.parametrize("lengths", [None, [12] * 8 + [5] * 8])
@pytest.mark.parametrize("num_dead", [0, 20, 32])
def test_dead_units_of_a_recurrent_relu_are_counted_by_its_output(num_dead, lengths):
    torch.manual_seed(0)
    model = Tagger(nn.RNN(8, 32, nonlinearity="relu"), lengths)
    with torch.no_grad():
        model.rnn.bias_ih_l0[:num_dead] = -9.0
    recording = seen(model)
    if not num_dead:
        assert DeadUnits().check(recording) == []
        return
    finding = the_finding(recording, DeadUnits())
    assert (finding.evidence["num_dead"], finding.evidence["num_units"]) == (num_dead, 32)
    assert finding.severity is (Severity.ERROR if num_dead == 32 else Severity.WARNING)
    assert_well_said([finding])


@pytest.mark.parametrize("seed", range(8))
def test_a_healthy_recurrent_relu_is_no_alarm(seed):
    torch.manual_seed(seed)
    model = Tagger(nn.RNN(8, 32, num_layers=3, nonlinearity="relu"))
    assert DeadUnits().check(seen(model, seed=seed)) == []


def test_a_subclass_that_returns_something_else_is_left_alone():
    class Last(nn.RNN):
        def forward(self, x):
            return super().forward(x)[0][-1]

    model = nn.Sequential(Last(8, 16), nn.Linear(16, 2))
    assert isinstance(SaturatedActivation().check(seen(model, scale=500.0)), NotApplicable)
