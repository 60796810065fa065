"""Recurrent networks with known truths: how much of a gradient at the end arrives at the beginning, and what the loss reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

FEATURES, HIDDEN = 8, 16
Module = TypeVar("Module", bound=nn.Module)


def fused(kind: type[nn.RNNBase], **settings) -> nn.RNNBase:
    """An nn.RNN, nn.LSTM or nn.GRU of 8 features and 16 units, batch first."""
    return kind(FEATURES, HIDDEN, **{"batch_first": True, **settings})


def with_gate_bias(module: Module, bias: float) -> Module:
    """With this bias at the forget gate of an LSTM, or the update gate of a GRU."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter[HIDDEN : 2 * HIDDEN] = bias if "bias_hh" in name else 0.0
    return module


def with_orthogonal_weights(module: Module, gain: float) -> Module:
    """W_hh = gain * an orthogonal matrix."""
    for name, parameter in module.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(parameter, gain)
    return module


def with_identity(module: Module) -> Module:
    """W_hh = 1 and biases 0 (Le et al. 2015)."""
    for name, parameter in module.named_parameters():
        if "weight_hh" in name:
            nn.init.eye_(parameter)
        elif "bias" in name:
            nn.init.zeros_(parameter)
    return module


class Sequences(nn.Module):
    """A recurrent module whose outputs a head reads: at the "last" or "first" step, at "all", their "mean", or the "state"."""

    def __init__(self, rnn: nn.RNNBase, reads: str = "last"):
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(HIDDEN * (2 if rnn.bidirectional else 1), 3)
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.rnn(x)
        if self.reads == "state":
            hidden = state[0] if isinstance(state, tuple) else state
            return self.head(torch.cat(hidden[-2:].unbind(), -1) if self.rnn.bidirectional else hidden[-1])
        if self.reads == "mean":
            return self.head(outputs.mean(1))
        if self.reads == "all":
            return self.head(outputs)
        return self.head(outputs[:, 0 if self.reads == "first" else -1])


class Packed(nn.Module):
    """Sequences of different lengths, packed; the head reads the final state."""

    def __init__(self, rnn: nn.RNNBase, lengths: list[int]):
        super().__init__()
        self.rnn, self.head, self.lengths = rnn, nn.Linear(HIDDEN, 3), lengths

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor(self.lengths), batch_first=True, enforce_sorted=False)
        _, state = self.rnn(packed)
        return self.head((state[0] if isinstance(state, tuple) else state)[-1])


class Padded(nn.Module):
    """Sequences of different lengths, not packed; the head reads the last step of each."""

    def __init__(self, rnn: nn.RNNBase, lengths: list[int]):
        super().__init__()
        self.rnn, self.head, self.lengths = rnn, nn.Linear(HIDDEN, 3), torch.tensor(lengths)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.rnn(x)
        return self.head(outputs[torch.arange(len(x)), self.lengths - 1])


class Loop(nn.Module):
    """A cell that is called once per step; the head reads the last state or all of them."""

    def __init__(self, cell: nn.Module, reads: str = "last"):
        super().__init__()
        self.cell, self.head, self.reads = cell, nn.Linear(HIDDEN, 3), reads

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(outputs, 1) if self.reads == "all" else outputs[-1])


class OwnCell(nn.Module):
    """tanh(W x + U h), a user's own."""

    def __init__(self):
        super().__init__()
        self.read, self.keep = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        return torch.tanh(self.read(x) + (0.0 if state is None else self.keep(state)))


class NoCell(nn.Module):
    """The same without a module for the cell; or with one layer that reads cat([x, h])."""

    def __init__(self, *, joined: bool = False):
        super().__init__()
        self.joined = joined
        self.read = nn.Identity() if joined else nn.Linear(FEATURES, HIDDEN)
        self.keep = nn.Linear(HIDDEN + FEATURES * joined, HIDDEN)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), HIDDEN)
        for step in x.unbind(1):
            if self.joined:
                state = torch.tanh(self.keep(torch.cat([step, state], -1)))
            else:
                state = torch.tanh(self.read(step) + self.keep(state))
        return self.head(state)


class Functional(nn.Module):
    """The same in functional code, with gain times an orthogonal matrix as W_hh."""

    def __init__(self, gain: float, activation: Callable[[Tensor], Tensor] = torch.tanh):
        super().__init__()
        self.read = nn.Parameter(torch.randn(FEATURES, HIDDEN) / FEATURES**0.5)
        self.keep = nn.Parameter(gain * nn.init.orthogonal_(torch.empty(HIDDEN, HIDDEN)))
        self.head = nn.Linear(HIDDEN, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), HIDDEN)
        for step in x.unbind(1):
            state = self.activation(step @ self.read + state @ self.keep)
        return self.head(state)


class ConvolutionalLSTM(nn.Module):
    """One convolution of cat([x, h]) makes all gates (Shi et al. 2015); no module for the cell."""

    def __init__(self):
        super().__init__()
        self.gates, self.head = nn.Conv2d(3 + 4, 16, 3, padding=1), nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = cell = x.new_zeros(len(x), 4, 6, 6)
        for frame in x.unbind(1):
            take, forget, show, value = self.gates(torch.cat([frame, hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(take) * torch.tanh(value)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
        return self.head(hidden.flatten(1))


class StepByStep(nn.Module):
    """A fused module that is called once per step with sequences of one, as decoders do."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = fused(nn.GRU), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = x, None
        for step in x.split(1, 1):
            outputs, state = self.rnn(step, state)
        return self.head(outputs[:, 0])


class FromTokens(nn.Module):
    """An embedding before a recurrent network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.embedding, self.network = nn.Embedding(50, FEATURES), network

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(self.embedding(tokens))


class TiedDepth(nn.Module):
    """One layer, called again and again: depth, not time. With `injected`, each call reads the input again."""

    def __init__(self, num_calls: int = 30, *, injected: bool = False):
        super().__init__()
        self.layer, self.head = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 3)
        self.num_calls, self.injected = num_calls, injected

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for _ in range(self.num_calls):
            hidden = torch.tanh(self.layer(hidden) + (x if self.injected else 0.0))
        return self.head(hidden)


class TiedTransformer(nn.Module):
    """One encoder layer for all of the depth, as ALBERT's, with the same mask for each call."""

    def __init__(self, num_calls: int = 12):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(HIDDEN, 2, 32, batch_first=True, norm_first=True)
        self.head, self.num_calls = nn.Linear(HIDDEN, 3), num_calls

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[1], x.shape[1])
        for _ in range(self.num_calls):
            x = self.layer(x, src_mask=mask)
        return self.head(x.mean(1))


def sequences(num_steps: int, *, seed: int = 0, num_sequences: int = 16) -> Tensor:
    """N(0, 1), shape (sequences, steps, features)."""
    return torch.randn(num_sequences, num_steps, FEATURES, generator=torch.Generator().manual_seed(seed))


def tokens(num_steps: int, *, seed: int = 0) -> Tensor:
    """Of the vocabulary of `FromTokens`."""
    return torch.randint(0, 50, (16, num_steps), generator=torch.Generator().manual_seed(seed))
