"""What recurrent cells do to a gradient over time, where it is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.theory.recurrent import gru_gain, lstm_gain, rnn_gain

Cell = Literal["rnn", "lstm", "gru"]

_SIZE = 8


def gain_over_time(cell: Cell = "lstm", steps: Sequence[int] = (1, 5, 20), *, parameter: float = 0.9) -> Agreement:
    """||dh_T / dh_0|| of a cell in float64 against the number of steps; within 1e-9.

    Args:
        cell: "rnn" (tanh at the origin), "lstm" or "gru" (with zero weights).
        steps: T.
        parameter: the gain of W_hh for the RNN, the bias of the forget or update gate for the others.

    >>> gain_over_time("rnn", [2], parameter=0.5).predicted
    (0.25,)
    """
    predicted = {"rnn": rnn_gain, "lstm": lstm_gain, "gru": gru_gain}[cell]
    run = _RUNS[cell]
    return agreement(
        cell.upper(),
        ("time steps", "gain of the gradient's norm"),
        steps,
        [[_gain(lambda state, count=count: run(state, count, parameter))] for count in steps],
        [predicted(parameter, count) for count in steps],
        tolerance=1e-9,
    )


def _gain(run: Callable[[Tensor], Tensor]) -> float:
    start = torch.zeros(1, _SIZE, dtype=torch.float64, requires_grad=True)
    cotangent = torch.linspace(-1.0, 1.0, _SIZE, dtype=torch.float64)[None]
    (gradient,) = torch.autograd.grad(run(start), start, cotangent)
    return float(gradient.norm() / cotangent.norm())


def _without_weights(cell: nn.RNNCellBase) -> nn.RNNCellBase:
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    return cell.double()


def _rnn(state: Tensor, steps: int, gain: float) -> Tensor:
    cell = _without_weights(nn.RNNCell(1, _SIZE))
    rotation = torch.linalg.qr(torch.arange(_SIZE * _SIZE, dtype=torch.float64).reshape(_SIZE, _SIZE).cos())[0]
    cell.weight_hh = nn.Parameter(gain * rotation)
    for _ in range(steps):
        state = cell(_nothing(), state)
    return state


def _lstm(state: Tensor, steps: int, forget_bias: float) -> Tensor:
    cell, hidden = _without_weights(nn.LSTMCell(1, _SIZE)), torch.zeros_like(state)
    with torch.no_grad():
        cell.bias_ih[_SIZE : 2 * _SIZE] = forget_bias
    for _ in range(steps):
        hidden, state = cell(_nothing(), (hidden, state))
    return state


def _gru(state: Tensor, steps: int, update_bias: float) -> Tensor:
    cell = _without_weights(nn.GRUCell(1, _SIZE))
    with torch.no_grad():
        cell.bias_ih[_SIZE : 2 * _SIZE] = update_bias
    for _ in range(steps):
        state = cell(_nothing(), state)
    return state


def _nothing() -> Tensor:
    return torch.zeros(1, 1, dtype=torch.float64)


_RUNS: dict[str, Callable[[Tensor, int, float], Tensor]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}
