"""HW101 and HW102 over the time steps of recurrent networks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.findings import Severity
from headwater.recording import Combine, RecordingBuilder, SignalKind
from headwater.rules import ExplodingGradient, VanishingGradient
from tests.rules.conclusions import alarms, assert_well_said, findings
from tests.rules.recordings import of_norm
from tests.rules.recurrent_networks import (
    FEATURES,
    HIDDEN,
    ConvolutionalLSTM,
    FromTokens,
    Loop,
    NoCell,
    OwnCell,
    Packed,
    Padded,
    Sequences,
    StepByStep,
    TiedDepth,
    TiedTransformer,
    fused,
    sequences,
    tokens,
    with_gate_bias,
    with_identity,
    with_orthogonal_weights,
)

WARNING, ERROR = Severity.WARNING, Severity.ERROR
LENGTHS = [60, 30, 20, 50] * 4


def _judged(model, inputs, scale=1.0):
    loss = (lambda output: scale * output.square().mean()) if scale else None
    return hw.diagnose(model, inputs, loss=loss)


def _made(make, num_steps, *, seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = make()
    has_tokens = isinstance(model, FromTokens)
    inputs = tokens(num_steps, seed=seed) if has_tokens else sequences(num_steps, seed=seed)
    return _judged(model, inputs, scale)


def _relu_cell(gain):
    return with_orthogonal_weights(nn.RNNCell(FEATURES, HIDDEN, nonlinearity="relu"), gain)


BROKEN = {
    "tanh RNN, last step": (lambda: Sequences(fused(nn.RNN)), 60, "HW101", "rnn"),
    "tanh RNN, final state": (lambda: Sequences(fused(nn.RNN), "state"), 100, "HW101", "rnn"),
    "tanh RNN on tokens": (lambda: FromTokens(Sequences(fused(nn.RNN))), 60, "HW101", "network.rnn"),
    "tanh RNN of two layers": (lambda: Sequences(fused(nn.RNN, num_layers=2)), 80, "HW101", "rnn"),
    "LSTM, zero forget bias": (lambda: Sequences(fused(nn.LSTM)), 80, "HW101", "rnn"),
    "GRU, zero bias": (lambda: Sequences(fused(nn.GRU)), 80, "HW101", "rnn"),
    "LSTM that forgets": (lambda: Sequences(with_gate_bias(fused(nn.LSTM), -4.0)), 20, "HW101", "rnn"),
    "bidirectional, read at one end": (
        lambda: Sequences(fused(nn.LSTM, bidirectional=True)),
        80,
        "HW101",
        "rnn",
    ),
    "packed": (lambda: Packed(fused(nn.RNN), LENGTHS), 60, "HW101", "rnn"),
    "padded": (lambda: Padded(fused(nn.RNN), LENGTHS), 60, "HW101", "rnn"),
    "RNNCell": (lambda: Loop(nn.RNNCell(FEATURES, HIDDEN)), 60, "HW101", "cell"),
    "LSTMCell that forgets": (lambda: Loop(with_gate_bias(nn.LSTMCell(FEATURES, HIDDEN), -4.0)), 20, "HW101", "cell"),
    "a cell of one's own": (lambda: Loop(OwnCell()), 60, "HW101", "cell"),
    "a loop without a cell": (NoCell, 60, "HW101", "keep"),
    "one layer that reads cat([x, h])": (partial(NoCell, joined=True), 60, "HW101", "keep"),
    "a GRU step by step": (StepByStep, 80, "HW101", "rnn"),
    "a decay into float32's zero": (lambda: Loop(nn.RNNCell(FEATURES, HIDDEN)), 250, "HW101", "cell"),
    "tanh RNN, g = 4": (lambda: Sequences(with_orthogonal_weights(fused(nn.RNN), 4.0)), 60, "HW102", "rnn"),
    "ReLU RNN, g = 3": (
        lambda: FromTokens(Sequences(with_orthogonal_weights(fused(nn.RNN, nonlinearity="relu"), 3.0))),
        40,
        "HW102",
        "network.rnn",
    ),
    "ReLU RNN, g = 3, all steps read": (
        lambda: Sequences(with_orthogonal_weights(fused(nn.RNN, nonlinearity="relu"), 3.0), "all"),
        25,
        "HW102",
        "rnn",
    ),
    "ReLU cell, g = 3": (lambda: Loop(_relu_cell(3.0)), 30, "HW102", "cell"),
    "ReLU cell, g = 3, on tokens": (lambda: FromTokens(Loop(_relu_cell(3.0))), 30, "HW102", "network.cell"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_loses_or_explodes_over_time_is_found_once_and_named_by_time(name, seed):
    make, num_steps, code, module = BROKEN[name]
    found = [f for f in _made(make, num_steps, seed=seed).findings if f.code in ("HW101", "HW102", "HW103")]
    assert [f.code for f in found] == [code]
    assert found[0].severity >= WARNING
    assert found[0].modules == (module,)
    assert found[0].evidence["axis"] == "time"
    assert " per step." in found[0].message
    assert "layer" not in found[0].message
    assert_well_said(found)


HEALTHY = {
    "tagger, RNN": (lambda: Sequences(fused(nn.RNN), "all"), 100),
    "tagger, LSTM": (lambda: Sequences(fused(nn.LSTM), "all"), 100),
    "tagger, cells": (lambda: Loop(nn.RNNCell(FEATURES, HIDDEN), "all"), 60),
    "tagger, LSTMCell on tokens": (lambda: FromTokens(Loop(nn.LSTMCell(FEATURES, HIDDEN), "all")), 60),
    "tagger, bidirectional": (lambda: Sequences(fused(nn.GRU, bidirectional=True), "all"), 60),
    "mean over the outputs": (lambda: Sequences(fused(nn.RNN), "mean"), 100),
    "LSTM, forget bias 1": (lambda: Sequences(with_gate_bias(fused(nn.LSTM), 1.0)), 50),
    "LSTM, forget bias 2": (lambda: Sequences(with_gate_bias(fused(nn.LSTM), 2.0), "state"), 100),
    "LSTMCell, forget bias 1": (lambda: Loop(with_gate_bias(nn.LSTMCell(FEATURES, HIDDEN), 1.0)), 50),
    "LSTM over the 28 rows of a digit": (lambda: Sequences(fused(nn.LSTM)), 28),
    "GRU, short": (lambda: Sequences(fused(nn.GRU)), 20),
    "GRUCell, short": (lambda: Loop(nn.GRUCell(FEATURES, HIDDEN)), 15),
    "RNN, short": (lambda: Sequences(fused(nn.RNN)), 10),
    "RNNCell, short": (lambda: Loop(nn.RNNCell(FEATURES, HIDDEN)), 10),
    "bidirectional encoder": (lambda: Sequences(fused(nn.LSTM, bidirectional=True), "state"), 40),
    "bidirectional, read at its first step": (lambda: Sequences(fused(nn.LSTM, bidirectional=True), "first"), 25),
    "orthogonal RNN": (lambda: Sequences(with_orthogonal_weights(fused(nn.RNN), 1.0)), 50),
    "IRNN": (lambda: Sequences(with_identity(fused(nn.RNN, nonlinearity="relu"))), 100),
    "packed LSTM": (lambda: Packed(with_gate_bias(fused(nn.LSTM), 1.0), [5, 30, 12, 50] * 4), 50),
    "padded LSTM": (lambda: Padded(with_gate_bias(fused(nn.LSTM), 1.0), [5, 30, 12, 50] * 4), 50),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_recurrent_network_is_no_alarm(name, seed):
    make, num_steps = HEALTHY[name]
    diagnosis = _made(make, num_steps, seed=seed)
    assert alarms(list(diagnosis.findings)) == []
    assert diagnosis.time_steps


def test_a_tied_transformer_is_no_alarm():
    torch.manual_seed(0)
    diagnosis = _judged(TiedTransformer(), torch.randn(4, 6, HIDDEN))
    assert alarms(list(diagnosis.findings)) == []
    assert diagnosis.time_steps == ()


def test_a_convolutional_lstm_is_judged_as_a_gated_cell():
    torch.manual_seed(0)
    short, long = (_judged(ConvolutionalLSTM(), torch.randn(4, steps, 3, 6, 6)) for steps in (20, 60))
    assert alarms(list(short.findings)) == []
    assert alarms(list(long.findings)) == [("HW101", WARNING, ("gates",))]
    (finding,) = (f for f in long.findings if f.code == "HW101")
    assert "60 calls, one per time step, of 'gates' (Conv2d)" in finding.message
    assert finding.remedies[0].startswith("Start with gates that keep")


@pytest.mark.parametrize("make", [lambda: Loop(OwnCell()), lambda: FromTokens(NoCell())], ids=["own", "no cell"])
def test_a_decay_that_ends_in_zero_by_rounding_is_one_finding(make):
    assert [f.code for f in _made(make, 250).findings if f.code.startswith("HW10")] == ["HW101"]


def test_recurrent_weights_that_start_at_zero_are_a_zero_and_no_decay():
    def make():
        cell = nn.RNNCell(FEATURES, HIDDEN)
        nn.init.zeros_(cell.weight_hh)
        return Loop(cell)

    assert [f.code for f in _made(make, 20).findings] == ["HW103"]


def test_steps_after_what_the_loss_reads_are_no_zero():
    class Masked(nn.Module):
        """Sequences that have all ended before the last step keep their state."""

        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRUCell(FEATURES, HIDDEN), nn.Linear(HIDDEN, 3)

        def forward(self, x):
            lengths, state = torch.tensor([5, 8, 10, 12] * 4), x.new_zeros(len(x), HIDDEN)
            for number, step in enumerate(x.unbind(1)):
                runs = (number < lengths).to(x.dtype)[:, None]
                state = runs * self.cell(step, state) + (1.0 - runs) * state
            return self.head(state)

    diagnosis = _made(Masked, 20)
    assert alarms(list(diagnosis.findings)) == []
    assert len(diagnosis.time_steps[0].norms) == 12


def test_tied_depth_that_vanishes_is_named_by_depth():
    torch.manual_seed(0)
    (finding,) = (f for f in _judged(TiedDepth(40), torch.randn(16, HIDDEN)).findings if f.code == "HW101")
    assert "41 layers" in finding.message


def test_without_a_loss_nothing_says_which_steps_matter():
    torch.manual_seed(0)
    diagnosis = hw.diagnose(fused(nn.RNN), sequences(80))
    assert alarms(list(diagnosis.findings)) == []
    assert diagnosis.time_steps[0].factor_per_step < 0.7


@pytest.mark.parametrize("scale", [1e-8, 65536.0])
@pytest.mark.parametrize("make", [BROKEN["tanh RNN, last step"][0], BROKEN["RNNCell"][0]])
def test_the_scale_of_the_loss_changes_no_verdict(make, scale):
    assert alarms(list(_made(make, 60, scale=scale).findings)) == alarms(list(_made(make, 60).findings))


def test_each_kind_of_cell_is_told_what_helps_it():
    def first_remedy(make, num_steps=80):
        (finding,) = (f for f in _made(make, num_steps).findings if f.code == "HW101")
        return finding.remedies[0]

    assert "forget gate" in first_remedy(BROKEN["LSTM, zero forget bias"][0])
    assert "update gate" in first_remedy(BROKEN["GRU, zero bias"][0])
    assert "orthogonal" in first_remedy(BROKEN["tanh RNN, last step"][0])
    (explodes,) = (f for f in _made(*BROKEN["tanh RNN, g = 4"][:2]).findings if f.code == "HW102")
    assert any("clip_grad_norm_" in remedy for remedy in explodes.remedies)


@pytest.mark.parametrize(
    ("make", "repaired"),
    [
        (lambda: Sequences(fused(nn.LSTM)), lambda: Sequences(with_gate_bias(fused(nn.LSTM), 2.0))),
        (lambda: Sequences(fused(nn.GRU)), lambda: Sequences(with_gate_bias(fused(nn.GRU), 2.0))),
        (lambda: Sequences(fused(nn.RNN)), lambda: Sequences(with_orthogonal_weights(fused(nn.RNN), 1.0))),
        (lambda: Sequences(fused(nn.RNN)), lambda: Sequences(fused(nn.RNN), "mean")),
        (lambda: Loop(_relu_cell(3.0)), lambda: Loop(_relu_cell(1.0))),
    ],
    ids=["forget bias", "update bias", "orthogonal", "mean", "smaller"],
)
def test_what_the_remedies_say_helps(make, repaired):
    assert alarms(list(_made(make, 60).findings)) != []
    assert alarms(list(_made(repaired, 60).findings)) == []


def test_a_deep_encoder_before_a_recurrent_network_keeps_its_own_finding():
    layers = [layer for _ in range(14) for layer in (nn.Linear(FEATURES, FEATURES), nn.Sigmoid())]
    torch.manual_seed(0)
    model = nn.Sequential(*layers, Sequences(fused(nn.RNN), "all"))
    (finding,) = (f for f in _judged(model, sequences(30)).findings if f.code == "HW101")
    assert "layers" in finding.message


def _recording(module_type, norms_back, read=None):
    """A fused module whose steps, from the last to the first, get these norms; the loss reads the last."""
    builder = RecordingBuilder()
    root = builder.add_module("", module_type)
    builder.add_parameter(root, "weight_hh_l0")
    depth = builder.add_call(root)
    builder.add_signal(root, SignalKind.ACTIVATION, of_norm(1.0), depth=depth)
    builder.add_signal(root, SignalKind.ACTIVATION_GRADIENT, of_norm(1.0), depth=depth)
    squares = [norm**2 for norm in norms_back]
    count = [1.0] * len(squares)
    for name, values in (
        ("squared_step_gradient", squares),
        ("squared_read_gradient", read or [1.0] + [0.0] * (len(squares) - 1)),
        ("num_step_sequences", count),
        ("squared_carried_gradient", squares),
        ("num_carried_sequences", count),
    ):
        builder.add_series(name, values, depth=depth, combine=Combine.SUM)
    return builder.build()


@pytest.mark.parametrize(
    ("lost_decades", "ungated", "gated"),
    [
        (2.9, None, None),
        (3.1, Severity.INFO, Severity.INFO),
        (7.4, Severity.INFO, Severity.INFO),
        (7.6, ERROR, WARNING),
        (15.9, ERROR, WARNING),
        (16.1, ERROR, ERROR),
    ],
)
def test_the_severity_follows_what_is_left_of_the_early_steps_in_a_sum(lost_decades, ungated, gated):
    for module_type, severity in (("RNN", ungated), ("LSTM", gated), ("GRU", gated)):
        recording = _recording(module_type, [10 ** (-lost_decades * back / 9) for back in range(10)])
        assert [f.severity for f in findings(recording, [VanishingGradient()])] == ([severity] if severity else [])


@pytest.mark.parametrize(("grown_decades", "severity"), [(2.9, None), (3.1, WARNING), (4.7, WARNING), (4.9, ERROR)])
def test_the_severity_follows_the_growth(grown_decades, severity):
    recording = _recording("RNN", [10 ** (grown_decades * back / 9) for back in range(10)])
    assert [f.severity for f in findings(recording, [ExplodingGradient()])] == ([severity] if severity else [])
    assert findings(recording, [VanishingGradient()]) == []
