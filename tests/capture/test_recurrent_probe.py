"""The gradient per time step of fused recurrent modules, against plain autograd in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from headwater.analysis import time_steps
from headwater.capture import Problem, observe
from tests.capture.bit_identity import assert_observe_leaves_no_trace
from tests.rules.recurrent_networks import (
    FEATURES,
    HIDDEN,
    FromTokens,
    Packed,
    Padded,
    Sequences,
    fused,
    sequences,
    tokens,
)

READS = ("last", "first", "all", "mean", "state")
LENGTHS = [5, 12, 3, 9]


def _square(output):
    return output.square().mean()


def _oracle(model, x, loss=_square):
    """Norms of dL/dx per step of each sequence, shape (sequences, steps), in float64."""
    wide = copy.deepcopy(model).double()
    given = x.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(wide(given)), given)
    return gradient.norm(dim=-1).numpy()


def _only(model, inputs, loss=_square):
    (found,) = time_steps(observe(Problem(model, inputs, loss=loss)))
    return np.array(found.norms)


def _root_mean_square(norms):
    return np.sqrt(np.mean(norms**2, axis=0))


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 3}, {"bidirectional": True}, {"bias": False, "num_layers": 2, "bidirectional": True}],
    ids=str,
)
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_each_steps_gradient_is_that_of_plain_autograd(kind, settings, reads):
    torch.manual_seed(0)
    model, x = Sequences(fused(kind, **settings), reads), sequences(9, num_sequences=4)
    expected = _root_mean_square(_oracle(model, x))
    found = _only(model, x)
    # A bidirectional module whose first output is read reaches all steps, another one only the first.
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-4)
    assert not expected[len(found) :].any()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_projections_too_with_time_first():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(FEATURES, HIDDEN, 2, proj_size=5)

        def forward(self, x):
            return self.rnn(x)[1][0][-1]

    torch.manual_seed(0)
    model, x = Projected(), sequences(7, num_sequences=9).transpose(0, 1)
    np.testing.assert_allclose(_only(model, x), np.sqrt(np.mean(_oracle(model, x) ** 2, axis=1)), rtol=1e-4)


def test_rectified_units_too():
    torch.manual_seed(0)
    model, x = Sequences(fused(nn.RNN, nonlinearity="relu")), sequences(7)
    np.testing.assert_allclose(_only(model, x), _root_mean_square(_oracle(model, x)), rtol=1e-4)


def test_one_sequence_without_a_batch():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(FEATURES, HIDDEN)

        def forward(self, x):
            return self.rnn(x)[0][-1]

    torch.manual_seed(0)
    model, x = Alone(), sequences(8, num_sequences=1)[0]
    np.testing.assert_allclose(_only(model, x), _oracle(model, x), rtol=1e-4)


@pytest.mark.parametrize("network", [Packed, Padded])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_sequences_of_different_lengths_are_counted_from_their_ends(kind, network):
    torch.manual_seed(0)
    model, x = network(fused(kind, num_layers=2), LENGTHS), sequences(12, num_sequences=4)
    norms = _oracle(model, x)
    found = _only(model, x)
    for steps_back in range(12):
        reaching = [
            row[length - 1 - steps_back] for row, length in zip(norms, LENGTHS, strict=True) if length > steps_back
        ]
        assert found[-1 - steps_back] == pytest.approx(np.sqrt(np.mean(np.square(reaching))), rel=1e-4)


def test_padding_never_counts_as_vanished():
    """Eleven steps of padding for one of data, and a mask in the loss."""
    torch.manual_seed(0)
    mask = torch.arange(60) < 5

    def loss(output):
        return (output * mask[:, None]).square().mean()

    (found,) = time_steps(observe(Problem(Sequences(fused(nn.LSTM), "all"), sequences(60), loss=loss)))
    assert len(found.norms) == 5
    assert found.lost_decades < 1.0


def test_an_initial_state_is_taken_along():
    class Started(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = fused(nn.LSTM)

        def forward(self, x):
            state = torch.full((1, len(x), HIDDEN), 0.7, dtype=x.dtype)
            packed = pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
            index = torch.arange(len(x), dtype=x.dtype)[None, :, None]
            return self.rnn(packed, hx=(state * index, -state * index))[1][1]

    torch.manual_seed(0)
    model, x = Started(), sequences(12, num_sequences=4)
    expected = _oracle(model, x)[np.arange(4), np.array(LENGTHS) - 1]
    assert _only(model, x)[-1] == pytest.approx(np.sqrt(np.mean(expected**2)), rel=1e-4)


def test_a_decay_goes_on_below_what_float32_can_hold():
    torch.manual_seed(0)
    model, x = Sequences(fused(nn.RNN)), sequences(300, num_sequences=2)
    np.testing.assert_allclose(np.log10(_only(model, x)), np.log10(_root_mean_square(_oracle(model, x))), atol=1e-3)


def test_the_scale_of_the_loss_scales_the_norms_and_nothing_else():
    torch.manual_seed(0)
    model, x = Sequences(fused(nn.GRU)), sequences(20)
    plain = _only(model, x)
    tiny = _only(model, x, lambda output: 1e-20 * _square(output))
    np.testing.assert_allclose(tiny, 1e-20 * plain, rtol=1e-4)


def test_each_call_of_a_shared_encoder_has_its_own_steps():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = fused(nn.GRU)

        def forward(self, x):
            return self.rnn(x)[0][:, -1] - self.rnn(x[:, :7])[0][:, -1]

    torch.manual_seed(0)
    found = time_steps(observe(Problem(Siamese(), sequences(10), loss=_square)))
    assert [(steps.module, len(steps.norms)) for steps in found] == [("rnn", 10), ("rnn", 7)]


def test_short_sequences_and_frozen_modules_say_nothing():
    assert time_steps(observe(Problem(Sequences(fused(nn.LSTM)), sequences(4), loss=_square))) == ()
    frozen = Sequences(fused(nn.LSTM).requires_grad_(False))
    assert time_steps(observe(Problem(frozen, sequences(20), loss=_square))) == ()


def test_a_gradient_that_is_not_finite_is_not_judged():
    def loss(output):
        return (output * float("inf")).sum() * 0.0

    assert time_steps(observe(Problem(Sequences(fused(nn.LSTM)), sequences(9), loss=loss))) == ()


def test_a_subclass_with_another_signature_is_noted_and_nothing_fails():
    class Odd(nn.LSTM):
        def forward(self, x, state=None, *, scale):
            return super().forward(x * scale, state)

    class Uses(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = Odd(FEATURES, HIDDEN, batch_first=True)

        def forward(self, x):
            return self.rnn(x, scale=2.0)[0][:, -1]

    recording = observe(Problem(Uses(), sequences(9), loss=_square))
    assert time_steps(recording) == ()
    assert any("time steps of a Odd were not observed" in note for note in recording.context.notes)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_probe_leaves_no_trace(kind):
    """Dropout between the layers draws random numbers in the pass; the probe must draw none that stay."""
    torch.manual_seed(0)
    model = Sequences(fused(kind, num_layers=2, dropout=0.5, bidirectional=True), "state")
    assert_observe_leaves_no_trace(Problem(model, sequences(8), loss=_square))
    assert_observe_leaves_no_trace(Problem(FromTokens(model), tokens(8), loss=_square))


@pytest.mark.parametrize("network", [Packed, Padded])
def test_the_probe_of_sequences_of_different_lengths_leaves_no_trace(network):
    model = network(fused(nn.LSTM), LENGTHS)
    assert_observe_leaves_no_trace(Problem(model, sequences(12, num_sequences=4), loss=_square))


def test_hooks_of_the_user_see_the_module_called_once():
    model = Sequences(fused(nn.GRU))
    seen = []
    model.rnn.register_forward_hook(lambda module, args, output: seen.append(module))
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        observe(Problem(model, sequences(8), loss=_square), lines=False)
    finally:
        handle.remove()
    assert [module for module in seen if isinstance(module, nn.GRU)] == [model.rnn, model.rnn]


def test_weights_that_a_parametrisation_makes_are_the_ones_probed():
    torch.manual_seed(0)
    model = Sequences(fused(nn.GRU))
    torch.nn.utils.parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    x = sequences(8, num_sequences=4)
    with torch.no_grad():
        model.rnn.parametrizations.weight_hh_l0.original0.mul_(3.0)
    np.testing.assert_allclose(_only(model, x), _root_mean_square(_oracle(model, x)), rtol=1e-4)
