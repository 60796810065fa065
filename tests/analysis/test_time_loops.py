"""Which modules run once per time step, and which are only used again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis.gradient_path import trainable_layers
from headwater.analysis.time_loops import time_loops
from tests.rules.recurrent_networks import (
    FEATURES,
    HIDDEN,
    FromTokens,
    Loop,
    NoCell,
    OwnCell,
    StepByStep,
    TiedDepth,
    TiedTransformer,
    sequences,
    tokens,
)

STEPS = 8
DATA = sequences(STEPS, num_sequences=4)
TOKENS = tokens(STEPS)
VECTORS = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(0))


def _square(output):
    return output.square().mean()


def _recording(model, x, **settings):
    torch.manual_seed(0)
    return hw.diagnose(model, x, loss=_square, **settings).recording


def _loops(model, x, **settings):
    return [
        (loop.calls[0].module, len(loop.calls), sorted(loop.per_step))
        for loop in time_loops(_recording(model, x, **settings))
    ]


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("lines", [True, False])
def test_torchs_cells_are_known(kind, lines):
    cell = kind(FEATURES, HIDDEN)
    assert _loops(Loop(cell), DATA, lines=lines) == [("cell", STEPS, ["cell"])]
    assert _loops(FromTokens(Loop(cell)), TOKENS, lines=lines) == [("network.cell", STEPS, ["network.cell"])]


@pytest.mark.parametrize("lines", [True, False])
def test_a_cell_of_ones_own_is_known_with_all_that_is_in_it(lines):
    inside = ["cell", "cell.keep", "cell.read"]
    assert _loops(Loop(OwnCell()), DATA, lines=lines) == [("cell", STEPS, inside)]
    assert _loops(FromTokens(Loop(OwnCell())), TOKENS, lines=lines) == [
        ("network.cell", STEPS, [f"network.{name}" for name in inside])
    ]


def test_a_loop_without_a_module_for_the_cell_is_known_by_its_operations():
    assert _loops(NoCell(), DATA) == [("keep", STEPS, ["keep", "read"])]
    assert _loops(FromTokens(NoCell()), TOKENS) == [("network.keep", STEPS, ["network.keep", "network.read"])]
    assert _loops(NoCell(joined=True), DATA) == [("keep", STEPS, ["keep"])]
    assert _loops(FromTokens(NoCell(joined=True)), TOKENS) == [("network.keep", STEPS, ["network.keep"])]


def test_a_fused_module_that_runs_step_by_step_is_a_cell():
    assert _loops(StepByStep(), DATA) == [("rnn", STEPS, ["rnn"])]


class _Stacked(nn.Module):
    """Two cells, dropout on the state between steps, an encoder and a head for each step."""

    def __init__(self):
        super().__init__()
        self.encode, self.drop = nn.Linear(FEATURES, HIDDEN), nn.Dropout(0.1)
        self.low, self.high = nn.GRUCell(HIDDEN, HIDDEN), OwnCell()
        self.high.read = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x):
        low, high, outputs = x.new_zeros(len(x), HIDDEN), x.new_zeros(len(x), HIDDEN), []
        for step in x.unbind(1):
            low = self.drop(self.low(torch.relu(self.encode(step)), low))
            high = self.high(low, high) * 0.9
            outputs.append(self.head(high))
        return torch.stack(outputs, 1)


def test_each_recurrent_module_of_a_stack_is_a_loop_and_what_runs_beside_it_is_not():
    found = {module: per_step for module, _, per_step in _loops(_Stacked(), DATA)}
    assert list(found) == ["low", "high"]
    beside = {"encode", "low", "drop", "high", "high.read", "high.keep", "head"}
    assert set(found["low"]) == set(found["high"]) == beside


@pytest.mark.parametrize(
    "model",
    [TiedDepth(STEPS), TiedDepth(STEPS, injected=True), TiedDepth(1)],
    ids=["tied", "tied with the input injected", "once"],
)
def test_tied_depth_is_depth(model):
    assert _loops(model, VECTORS) == []
    assert len(trainable_layers(_recording(model, VECTORS))) == model.num_calls + 1


def test_a_tied_transformer_is_depth():
    assert _loops(TiedTransformer(STEPS), torch.randn(4, 6, HIDDEN)) == []


class _Bottleneck(nn.Module):
    """Tied down and up projections with a shortcut: down reads more than it returns, and no time passes."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.head = nn.Linear(HIDDEN, 4), nn.Linear(4, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        for _ in range(STEPS):
            x = x + self.up(torch.relu(self.down(x)))
        return self.head(x)


class _JoinedDepth(nn.Module):
    """Tied layers that read cat([state, input]): the same input each time."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.head = nn.Linear(HIDDEN, 8), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        start = state = self.first(x)
        for _ in range(STEPS):
            state = torch.tanh(self.layer(torch.cat([state, start], -1)))
        return self.head(state)


class _SharedParts(nn.Module):
    """A deep network with one activation and one norm for all layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(HIDDEN, HIDDEN) for _ in range(STEPS))
        self.activation, self.norm, self.head = nn.PReLU(), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        for layer in self.layers:
            x = self.activation(self.norm(layer(x)))
        return self.head(x)


class _SharedEncoder(nn.Module):
    """One encoder for each of several inputs, none of which depends on another."""

    def __init__(self):
        super().__init__()
        self.encode, self.head = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        return self.head(torch.stack([torch.tanh(self.encode(step)) for step in x.unbind(1)]).mean(0))


@pytest.mark.parametrize(
    ("model", "x"),
    [(_Bottleneck(), VECTORS), (_JoinedDepth(), VECTORS), (_SharedParts(), VECTORS), (_SharedEncoder(), DATA)],
    ids=str,
)
def test_what_is_only_used_again_is_no_loop_over_time(model, x):
    assert _loops(model, x) == []


def test_a_loop_is_as_many_layers_as_it_has_modules():
    recording = _recording(FromTokens(Loop(OwnCell())), TOKENS)
    assert {layer.call.module for layer in trainable_layers(recording)} == {
        "embedding",
        "network.cell.read",
        "network.cell.keep",
        "network.head",
    }
    assert len(trainable_layers(recording)) == 4


def test_fewer_than_five_calls_are_no_loop():
    assert _loops(Loop(nn.RNNCell(FEATURES, HIDDEN)), DATA[:, :4]) == []


def test_the_users_own_loop_over_a_cell_is_known_from_a_recording():
    torch.manual_seed(0)
    cell = nn.GRUCell(FEATURES, HIDDEN)
    with hw.record(cell) as recorder:
        state = None
        for step in DATA.unbind(1):
            state = cell(step, state)
        _square(state).backward()
    (steps,) = hw.judge(recorder.recording).time_steps
    assert (steps.module, len(steps.norms)) == ("", STEPS)
    assert 0.4 < steps.factor_per_step < 0.8
    assert str(steps) == "8 calls, one per time step, of the model (GRUCell)"


@pytest.mark.parametrize("make", [lambda: nn.GRUCell(FEATURES, HIDDEN), OwnCell], ids=["GRUCell", "own"])
def test_truncation_ends_a_loop_and_begins_another(make):
    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = make(), nn.Linear(HIDDEN, 3)

        def forward(self, x):
            state, outputs = None, []
            for number, step in enumerate(x.unbind(1)):
                state = self.cell(step, state.detach() if number in (8, 15) else state)
                outputs.append(state)
            return self.head(torch.stack([outputs[7], outputs[14], outputs[19]]))

    recording = _recording(Truncated(), sequences(20))
    assert [len(loop.calls) for loop in time_loops(recording)] == [8, 7, 5]
    assert [len(steps.norms) for steps in hw.judge(recording).time_steps] == [8, 7, 5]
