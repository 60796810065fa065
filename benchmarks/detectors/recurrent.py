"""Recurrent networks that lose or multiply the gradient over time, and healthy ones that forget as they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.detectors.case import Case, Subject
from tests.rules import recurrent_networks as recurrent
from tests.rules.recurrent_networks import FEATURES, HIDDEN, FromTokens, Loop, Sequences, fused

Make = Callable[[], nn.Module]


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _vanishing()
    yield from _exploding()
    yield from _healthy()


def _square(output: Tensor) -> Tensor:
    return output.square().mean()


def _subject(make: Make, num_steps: int, seed: int) -> Subject:
    torch.manual_seed(seed)
    model = make()
    inputs = recurrent.tokens if isinstance(model, FromTokens) else recurrent.sequences
    return Subject(model, inputs(num_steps, seed=seed), loss=_square)


def _case(name: str, make: Make, num_steps: int, codes: str = "", module: str | None = None) -> Case:
    return Case(f"{name}, {num_steps} steps", partial(_subject, make, num_steps), tuple(codes.split()), module)


def _relu(gain: float) -> nn.RNNBase:
    return recurrent.with_orthogonal_weights(fused(nn.RNN, nonlinearity="relu"), gain)


def _relu_cell(gain: float) -> nn.Module:
    return recurrent.with_orthogonal_weights(nn.RNNCell(FEATURES, HIDDEN, nonlinearity="relu"), gain)


def _lstm(forget_bias: float) -> nn.RNNBase:
    return recurrent.with_gate_bias(fused(nn.LSTM), forget_bias)


def _lstm_cell(forget_bias: float) -> nn.Module:
    return recurrent.with_gate_bias(nn.LSTMCell(FEATURES, HIDDEN), forget_bias)


def _vanishing() -> Iterator[Case]:
    for num_steps in (60, 100):
        yield _case("tanh RNN, last step", lambda: Sequences(fused(nn.RNN)), num_steps, "HW101", "rnn")
        yield _case(
            "tanh RNN on tokens", lambda: FromTokens(Sequences(fused(nn.RNN))), num_steps, "HW101", "network.rnn"
        )
    yield _case("LSTM, forget bias 0", lambda: Sequences(fused(nn.LSTM), "state"), 100, "HW101", "rnn")
    yield _case("GRU, bias 0", lambda: Sequences(fused(nn.GRU)), 100, "HW101", "rnn")
    yield _case("LSTM, forget bias -4", lambda: Sequences(_lstm(-4.0)), 20, "HW101", "rnn")
    yield _case("LSTMCell, forget bias -4", lambda: Loop(_lstm_cell(-4.0)), 20, "HW101", "cell")
    yield _case("RNNCell", lambda: Loop(nn.RNNCell(FEATURES, HIDDEN)), 60, "HW101", "cell")
    yield _case("a cell of one's own", lambda: Loop(recurrent.OwnCell()), 60, "HW101", "cell")
    yield _case("a loop without a cell", recurrent.NoCell, 60, "HW101", "keep")
    yield _case("functional code, g = 0.5", lambda: recurrent.Functional(0.5), 60, "HW101", "")
    yield _case("packed tanh RNN", lambda: recurrent.Packed(fused(nn.RNN), [60, 30, 20, 50] * 4), 60, "HW101", "rnn")


def _exploding() -> Iterator[Case]:
    yield _case("ReLU RNN, g = 3", lambda: FromTokens(Sequences(_relu(3.0))), 40, "HW102", "network.rnn")
    yield _case("ReLU RNN, g = 3, all steps", lambda: Sequences(_relu(3.0), "all"), 25, "HW102", "rnn")
    yield _case("ReLU cell, g = 3", lambda: Loop(_relu_cell(3.0)), 30, "HW102", "cell")
    yield _case("functional code, g = 3", lambda: recurrent.Functional(3.0, torch.relu), 30, "HW102", "")
    chaotic = partial(recurrent.with_orthogonal_weights, gain=4.0)
    yield _case("tanh RNN, g = 4", lambda: Sequences(chaotic(fused(nn.RNN))), 60, "HW102", "rnn")


def _healthy() -> Iterator[Case]:
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        yield _case(f"tagger, {kind.__name__}", lambda kind=kind: Sequences(fused(kind), "all"), 100)
        yield _case(f"mean over a {kind.__name__}", lambda kind=kind: Sequences(fused(kind), "mean"), 60)
        both = partial(fused, kind, bidirectional=True)
        yield _case(f"bidirectional {kind.__name__}, final states", lambda both=both: Sequences(both(), "state"), 20)
    yield _case("tagger, cells on tokens", lambda: FromTokens(Loop(nn.LSTMCell(FEATURES, HIDDEN), "all")), 60)
    yield _case("LSTM, forget bias 1", lambda: Sequences(_lstm(1.0)), 50)
    yield _case("LSTM, forget bias 2", lambda: Sequences(_lstm(2.0)), 100)
    yield _case("LSTMCell, forget bias 1", lambda: Loop(_lstm_cell(1.0)), 50)
    yield _case("LSTM, forget bias 0", lambda: Sequences(fused(nn.LSTM)), 28)
    yield _case("GRU", lambda: Sequences(fused(nn.GRU)), 20)
    yield _case("RNN", lambda: Sequences(fused(nn.RNN)), 10)
    yield _case("RNNCell", lambda: Loop(nn.RNNCell(FEATURES, HIDDEN)), 10)
    orthogonal = partial(recurrent.with_orthogonal_weights, gain=1.0)
    yield _case("orthogonal RNN", lambda: Sequences(orthogonal(fused(nn.RNN))), 50)
    yield _case("functional code, g = 1", lambda: recurrent.Functional(1.0), 20)
    identity = partial(fused, nn.RNN, nonlinearity="relu")
    yield _case("IRNN", lambda: Sequences(recurrent.with_identity(identity())), 100)
    lengths = [5, 30, 12, 50] * 4
    yield _case("packed LSTM", lambda: recurrent.Packed(_lstm(1.0), lengths), 50)
    yield _case("padded LSTM", lambda: recurrent.Padded(_lstm(1.0), lengths), 50)
    yield Case("a transformer with tied layers", _tied_transformer)


def _tied_transformer(seed: int) -> Subject:
    torch.manual_seed(seed)
    return Subject(recurrent.TiedTransformer(), torch.randn(4, 6, HIDDEN), loss=_square)
