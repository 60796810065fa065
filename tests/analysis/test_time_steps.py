"""What a step back in time multiplies a gradient by, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis import time_steps
from headwater.analysis.time_steps import rate_decades
from headwater.recording import Combine, RecordingBuilder, SignalKind
from headwater.theory.recurrent import gru_gain, lstm_gain, rnn_gain
from tests.rules.recordings import of_norm
from tests.rules.recurrent_networks import FEATURES, HIDDEN, Loop, Packed, Sequences, fused, sequences

STEPS = 30
ZEROS = torch.zeros(4, STEPS, HIDDEN)


def _linear(output):
    return output.sum()


def _only(model, x, loss=_linear):
    (found,) = hw.diagnose(model, x, loss=loss).time_steps
    return found


def _zeroed(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class _Head(nn.Module):
    """Reads the last hidden or cell state."""

    def __init__(self, rnn, part=0):
        super().__init__()
        self.rnn, self.part = rnn, part

    def forward(self, x):
        state = self.rnn(x)[1]
        return (state if isinstance(state, torch.Tensor) else state[self.part])[-1]


class _HeadOfCells(nn.Module):
    def __init__(self, cell, part=0):
        super().__init__()
        self.cell, self.part = cell, part

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state if isinstance(state, torch.Tensor) else state[self.part]


def _orthogonal(module, gain):
    _zeroed(module)
    for name, parameter in module.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(parameter, gain)
        elif "weight_ih" in name:
            nn.init.orthogonal_(parameter)
    return module


@pytest.mark.parametrize("gain", [0.3, 0.5, 0.9, 1.0, 1.1, 2.0])
@pytest.mark.parametrize("is_fused", [True, False])
def test_an_orthogonal_rnn_at_the_origin_gives_g_to_the_power_of_the_steps(gain, is_fused):
    torch.manual_seed(0)
    if is_fused:
        model = _Head(_orthogonal(nn.RNN(HIDDEN, HIDDEN, batch_first=True), gain))
    else:
        model = _HeadOfCells(_orthogonal(nn.RNNCell(HIDDEN, HIDDEN), gain))
    found = _only(model, ZEROS)
    assert found.factor_per_step == pytest.approx(gain, rel=1e-4)
    assert found.norms[0] / found.norms[-1] == pytest.approx(rnn_gain(gain, STEPS - 1), rel=1e-3)


class _OwnCell(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.keep = nn.Linear(HIDDEN, HIDDEN, bias=False)
        nn.init.orthogonal_(self.keep.weight, gain)

    def forward(self, step, state):
        return torch.tanh(step + self.keep(torch.zeros_like(step) if state is None else state))


def test_a_cell_of_ones_own_gives_g_to_the_power_of_the_steps():
    torch.manual_seed(0)
    found = _only(_HeadOfCells(_OwnCell(0.5)), ZEROS)
    assert (found.module, found.module_type, found.is_fused, len(found.norms)) == ("cell", "_OwnCell", False, STEPS)
    assert found.norms[0] / found.norms[-1] == pytest.approx(rnn_gain(0.5, STEPS - 1), rel=1e-3)


@pytest.mark.parametrize("bias", [-4.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("is_fused", [True, False])
def test_an_lstm_whose_gates_do_not_look_gives_the_forget_gate_to_the_power_of_the_steps(bias, is_fused):
    """All weights zero, but those by which a fused module's cell reads its input: without them nothing arrives there."""
    torch.manual_seed(0)
    module = _zeroed(nn.LSTM(HIDDEN, HIDDEN, batch_first=True) if is_fused else nn.LSTMCell(HIDDEN, HIDDEN))
    with torch.no_grad():
        names = dict(module.named_parameters())
        names["bias_ih_l0" if is_fused else "bias_ih"][HIDDEN : 2 * HIDDEN] = bias
        if is_fused:
            names["weight_ih_l0"][2 * HIDDEN : 3 * HIDDEN] = torch.eye(HIDDEN)
    found = _only((_Head if is_fused else _HeadOfCells)(module, part=1), ZEROS)
    assert found.factor_per_step == pytest.approx(lstm_gain(bias, 1), rel=1e-4)
    assert found.norms[0] / found.norms[-1] == pytest.approx(lstm_gain(bias, STEPS - 1), rel=1e-3)


@pytest.mark.parametrize("bias", [-4.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("is_fused", [True, False])
def test_a_gru_whose_gates_do_not_look_gives_the_update_gate_to_the_power_of_the_steps(bias, is_fused):
    torch.manual_seed(0)
    module = _zeroed(nn.GRU(HIDDEN, HIDDEN, batch_first=True) if is_fused else nn.GRUCell(HIDDEN, HIDDEN))
    with torch.no_grad():
        names = dict(module.named_parameters())
        names["bias_ih_l0" if is_fused else "bias_ih"][HIDDEN : 2 * HIDDEN] = bias
        if is_fused:
            names["weight_ih_l0"][2 * HIDDEN :] = torch.eye(HIDDEN)
    found = _only((_Head if is_fused else _HeadOfCells)(module), ZEROS)
    assert found.factor_per_step == pytest.approx(gru_gain(bias, 1), rel=1e-4)
    assert found.norms[0] / found.norms[-1] == pytest.approx(gru_gain(bias, STEPS - 1), rel=1e-3)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_a_fused_module_carries_does_not_depend_on_what_the_loss_reads(num_layers):
    torch.manual_seed(0)
    rnn = fused(nn.LSTM, num_layers=num_layers)
    rates = {_only(Sequences(rnn, reads), sequences(STEPS)).decades_per_step for reads in ("last", "all", "mean")}
    assert len(rates) == 1
    assert -0.3 < rates.pop() < -0.1


def test_only_a_loss_that_reads_few_steps_loses_the_others():
    torch.manual_seed(0)
    rnn = fused(nn.RNN)
    lost = {reads: _only(Sequences(rnn, reads), sequences(40)).lost_decades for reads in ("last", "all", "mean")}
    assert lost["last"] > 7.5
    assert max(lost["all"], lost["mean"]) < 1.0


def test_both_ends_of_a_bidirectional_module_are_near_the_loss():
    torch.manual_seed(0)
    found = _only(Sequences(fused(nn.GRU, bidirectional=True), "state"), sequences(40))
    middle = found.norms[20]
    assert min(found.norms[0], found.norms[-1]) > 100 * middle
    assert found.grown_decades < 1.0
    one_way = _only(Sequences(fused(nn.GRU), "state"), sequences(40))
    assert found.lost_decades < 0.7 * one_way.lost_decades


def test_short_sequences_in_a_batch_do_not_look_like_a_loss_over_time():
    """With a gain of one every step gets the same: however few sequences are long enough to have it."""
    torch.manual_seed(0)
    rnn = _orthogonal(nn.RNN(FEATURES, HIDDEN, batch_first=True), 1.0)
    with torch.no_grad():
        nn.init.orthogonal_(rnn.weight_ih_l0)
    found = _only(Packed(rnn, [STEPS, *[5] * 15]), torch.zeros(16, STEPS, FEATURES))
    assert len(found.norms) == STEPS
    assert found.lost_decades < 0.5


def test_passes_are_merged_step_by_step_from_the_end():
    torch.manual_seed(0)
    model = Sequences(fused(nn.RNN))
    first, second = (hw.diagnose(model, sequences(20, seed=seed), loss=_linear) for seed in (0, 1))
    (merged,) = hw.judge(hw.recording.merge(first.recording, second.recording)).time_steps
    (a,), (b,) = first.time_steps, second.time_steps
    expected = [math.hypot(*pair) / math.sqrt(2.0) for pair in zip(a.norms, b.norms, strict=True)]
    assert merged.norms == pytest.approx(expected)


def test_it_survives_saving(tmp_path):
    torch.manual_seed(0)
    diagnosis = hw.diagnose(Sequences(fused(nn.LSTM)), sequences(STEPS), loss=_linear)
    diagnosis.save(tmp_path / "run.hw")
    assert hw.load(tmp_path / "run.hw").time_steps == diagnosis.time_steps
    assert diagnosis.time_steps[0].norms[0] > 0.0


def _recording(squares, read, counts=None):
    builder = RecordingBuilder()
    root = builder.add_module("", "LSTM")
    depth = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
    counts = [1.0] * len(squares) if counts is None else counts
    for name, values in (
        ("squared_step_gradient", squares),
        ("squared_read_gradient", read),
        ("num_step_sequences", counts),
        ("squared_carried_gradient", squares),
        ("num_carried_sequences", counts),
    ):
        builder.add_series(name, values, depth=depth, combine=Combine.SUM)
    return builder.build()


def test_losses_and_growth_are_relative_to_the_steps_that_the_loss_reads():
    back = [10.0 ** (-2 * k) for k in range(10)]
    (decay,) = time_steps(_recording(back, [1.0] + [0.0] * 9))
    assert (decay.lost_decades, decay.grown_decades) == (pytest.approx(9.0), pytest.approx(0.0))
    (growth,) = time_steps(_recording(back[::-1], [1.0] + [0.0] * 9))
    assert (growth.lost_decades, growth.grown_decades) == (pytest.approx(0.0), pytest.approx(9.0))
    (read_first,) = time_steps(_recording(back[::-1], [0.0] * 9 + [1.0]))
    assert (read_first.lost_decades, read_first.grown_decades) == (pytest.approx(9.0), pytest.approx(0.0))
    (read_everywhere,) = time_steps(_recording(back[::-1], [1.0] * 10))
    assert read_everywhere.grown_decades == pytest.approx(9.0)


def test_norms_are_per_sequence():
    (found,) = time_steps(_recording([8.0, 8.0, 4.0, 4.0, 1.0], [1.0, 0, 0, 0, 0], [8.0, 8.0, 4.0, 4.0, 1.0]))
    assert found.norms == (1.0,) * 5


def test_steps_that_get_exactly_nothing_do_not_count():
    (found,) = time_steps(_recording([1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 0, 0, 0, 0]))
    assert found.lost_decades == 0.0
    assert time_steps(_recording([0.0] * 5, [0.0] * 5)) == ()


@pytest.mark.parametrize(("norms", "rate"), [([], math.nan), ([1.0], math.nan), ([0.0, 1.0], math.nan)])
def test_a_rate_needs_two_steps(norms, rate):
    assert math.isnan(rate_decades(norms)) is math.isnan(rate)


def test_a_loop_says_how_many_calls_and_a_fused_module_how_many_steps():
    torch.manual_seed(0)
    assert str(_only(Loop(nn.GRUCell(FEATURES, HIDDEN)), sequences(6))) == (
        "6 calls, one per time step, of 'cell' (GRUCell)"
    )
    assert str(_only(Sequences(fused(nn.GRU)), sequences(6))) == "6 time steps of 'rnn' (GRU)"
