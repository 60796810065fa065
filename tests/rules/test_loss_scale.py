"""Verdicts about the network do not depend on the scale of the loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headwater.capture import Problem, observe
from headwater.rules import ExplodingGradient, NonFinite, VanishingGradient, ZeroGradient
from tests.rules import broken_networks, healthy_networks
from tests.rules.conclusions import findings
from tests.rules.recordings import Step, activation, chain, of_norm, with_scaled_gradients

RULES = (VanishingGradient(), ExplodingGradient(), ZeroGradient(), NonFinite())

steps = st.lists(
    st.builds(
        lambda name, gain: activation(name, gain) if name != "Linear" else Step(gain=gain),
        st.sampled_from(["Linear", "Linear", "Sigmoid", "ReLU", "LayerNorm", "Softmax"]),
        st.one_of(st.floats(1e-3, 1e3), st.sampled_from([0.0, 1e-9, 1e5, 1e12])),
    ),
    min_size=1,
    max_size=12,
).map(lambda drawn: [Step(), *drawn, Step(weight=of_norm(0.0), gain=0.5)])


def _verdict(recording):
    return [(f.code, f.severity, f.modules, f.cause, f.remedies) for f in findings(recording, RULES)]


@given(steps=steps, exponent=st.integers(-40, 40))
def test_a_power_of_two_changes_no_word(steps, exponent):
    recording = chain(steps)
    assert _verdict(with_scaled_gradients(recording, exponent)) == _verdict(recording)


@given(steps=steps, factor=st.floats(1e-12, 1e12))
def test_any_factor_changes_no_code_severity_or_module(steps, factor):
    plain, scaled = (_verdict(chain(steps, cotangent=norm)) for norm in (1.0, factor))
    assert [row[:3] for row in scaled] == [row[:3] for row in plain]


def _networks():
    yield "sigmoid", broken_networks.plain(nn.Sigmoid, 20, 16, num_outputs=4)
    yield "He", broken_networks.plain(nn.ReLU, 34, 16, broken_networks.he, num_outputs=4)
    yield "Glorot", broken_networks.plain(nn.ReLU, 34, 64, nn.init.xavier_uniform_, num_outputs=4)
    yield "tanh", broken_networks.plain(nn.Tanh, 4, 16, nn.init.xavier_uniform_, num_outputs=4)
    yield "zero gamma", nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 1), healthy_networks.zero_gamma())
    yield "exploding", broken_networks.ExplodingShortcuts(width=16)
    yield (
        "normalised near zero",
        nn.Sequential(
            broken_networks.zeroed(nn.Linear(16, 8)),
            broken_networks.Apply(lambda x: nn.functional.normalize(x, dim=-1)),
            nn.Linear(8, 4),
        ),
    )


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 65536.0, 1e12])
@pytest.mark.parametrize("name", [name for name, _ in _networks()])
def test_a_scaled_loss_gives_the_verdict_of_the_loss(name, factor):
    torch.manual_seed(0)
    model = dict(_networks())[name].double()  # no float16 here: what a dtype loses is a cause of its own
    width = 64 if name == "Glorot" else 16
    inputs = broken_networks.gaussian(32, width).double()

    def verdict(scale):
        return _verdict(observe(Problem(model, inputs, loss=lambda output: scale * (output - 1.0).square().mean())))

    assert [row[:3] for row in verdict(factor)] == [row[:3] for row in verdict(1.0)]


@pytest.mark.parametrize("factor", [1e-6, 65536.0])
def test_a_healthy_network_is_healthy_in_float32_whatever_the_loss_is_multiplied_by(factor):
    torch.manual_seed(0)
    model = broken_networks.plain(nn.ReLU, 34, 128, broken_networks.he)
    inputs = broken_networks.gaussian(32, 128)
    assert _verdict(observe(Problem(model, inputs, loss=lambda output: factor * output.square().mean()))) == []
