from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from headwater.analysis.gradient_measures import gradient_measures, rate_interval
from headwater.analysis.gradient_path import Layer, rate_decades_per_layer, trainable_layers
from headwater.capture import Problem, observe
from headwater.recording import Call
from tests.rules import broken_networks as broken
from tests.rules.recordings import Step, activation, chain, of_norm


def walk(steps):
    """Layers whose gain, from the output backwards, makes these steps."""
    gains = np.cumsum(steps)[::-1]
    return [
        Layer(Call(str(depth), "Linear", 0, depth, -1, True, True, True, True, True), float(gain), 1.0)
        for depth, gain in enumerate(gains)
    ]


def measures(recording):
    return gradient_measures(recording, trainable_layers(recording))


@pytest.mark.parametrize("num_layers", [5, 12, 60])
def test_the_interval_covers_the_drift_of_a_random_walk_as_often_as_it_says(num_layers):
    generator = np.random.default_rng(0)
    intervals = [rate_interval(walk(generator.normal(-0.3, 0.2, num_layers))) for _ in range(2000)]
    covered = np.mean([low <= -0.3 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97


def test_the_interval_is_around_the_slope_that_is_stated():
    layers = walk(np.random.default_rng(1).normal(-0.5, 0.3, 17))
    assert sum(rate_interval(layers)) / 2 == pytest.approx(rate_decades_per_layer(layers))


def test_few_layers_have_no_interval():
    assert all(map(math.isnan, rate_interval(walk([-1.0, -1.0, -1.0, -1.0]))))
    assert rate_interval(walk([-1.0] * 6)) == pytest.approx((-1.0, -1.0))


def relu_network(scales, inputs):
    """Three layers without biases, so that scaling one up and the next down changes nothing of the function."""
    torch.manual_seed(0)
    layers = [
        nn.Linear(8, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 2, bias=False),
    ]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer, scale in zip((model[0], model[2], model[4]), scales, strict=True):
            layer.weight *= scale
    return observe(Problem(model, inputs))


def test_elasticity_is_blind_to_the_scale_of_layers_and_the_gain_is_not():
    inputs = broken.gaussian(16, 8).double()
    plain, rescaled = (measures(relu_network(scales, inputs)) for scales in ((1.0, 1.0, 1.0), (1e4, 1e-4, 1.0)))
    assert rescaled.elasticity_decades == pytest.approx(plain.elasticity_decades, abs=1e-9)
    gains = [
        trainable_layers(relu_network(scales, inputs))[0].gain_decades for scales in ((1.0, 1.0, 1.0), (1e4, 1e-4, 1.0))
    ]
    assert gains[1] - gains[0] == pytest.approx(-4.0, abs=1e-9)


def test_elasticity_is_the_relative_effect_that_plain_autograd_gives():
    inputs = broken.gaussian(16, 8).double()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    recording = observe(Problem(model, inputs, loss=lambda output: output.square().sum()))
    hidden = model[0](inputs).detach().requires_grad_()
    output = model[2](model[1](hidden))
    cotangent = 2.0 * output.detach()
    (gradient,) = torch.autograd.grad(output, hidden, cotangent)
    expected = gradient.norm() / cotangent.norm() * hidden.norm() / output.norm()
    assert measures(recording).elasticity_decades == pytest.approx(math.log10(expected.item()), abs=1e-9)


@pytest.mark.parametrize(("rate", "share"), [(1e-12, 1.0), (1e-2, 0.0)])
def test_the_reach_is_the_share_of_weights_that_the_next_step_leaves(rate, share):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    problem = Problem(model, broken.gaussian(32, 8), loss=lambda out: (out - 1.0).square().mean(), optimizer=optimizer)
    assert measures(observe(problem)).unchanged_share == pytest.approx(share, abs=0.02)


def test_signal_over_noise_is_that_of_first_and_last_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs = broken.gaussian(64, 8)
    problem = Problem(model, inputs, inputs[:, :1] + 3.0, nn.MSELoss())
    assert math.isnan(measures(observe(problem, samples=0)).signal_to_noise)
    found = measures(observe(problem, samples=16))
    assert found.last_signal_to_noise > 1.0  # all samples ask for a larger output
    assert math.isfinite(found.signal_to_noise)


def test_a_product_with_a_constant_is_a_mere_scale_and_weights_are_not():
    def lost(*steps):
        return measures(chain([Step(), Step(), Step(), *steps]))

    def scale(factor):
        return Step(type="Scale", gain=factor, trains=False, output=of_norm(factor))

    assert lost(scale(1e-5)).is_a_mere_scale(-5.0, 2.0)
    assert lost(scale(1e5)).is_a_mere_scale(5.0, 2.0)
    assert not lost(activation("Scale", 1e-5)).is_a_mere_scale(
        -5.0, 2.0
    )  # the output does not follow: something is lost
    assert not lost(Step(gain=1e-5)).is_a_mere_scale(-5.0, 2.0)
    assert not lost(activation("Sigmoid", 1e-5)).is_a_mere_scale(-5.0, 2.0)
    assert not lost(Step(gain=1e-2), scale(1e-3)).is_a_mere_scale(-5.0, 2.0)
