"""BatchNorm in batches of any size, beside samples of the sphere that its outputs lie on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headwater.theory.activations import ACTIVATIONS, GELU, LINEAR, RELU, SELU, TANH
from headwater.theory.batch_norm import batch_norm_gradient_factor, chi_with_batch_norm


@pytest.mark.parametrize("batch", [4, 5, 8, 33, 1000])
def test_linear_layers_in_closed_form(batch):
    assert chi_with_batch_norm(LINEAR, batch) == pytest.approx((batch - 2.0) / (batch - 3.0), rel=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
def test_large_batches_are_the_limit(activation):
    tolerance = 1e-3 if any(kink != 0.0 for kink in activation.kinks) else 1e-5
    assert chi_with_batch_norm(activation, 1_000_000) == pytest.approx(chi_with_batch_norm(activation), rel=tolerance)


@pytest.mark.parametrize("activation", [RELU, TANH, GELU, SELU], ids=lambda activation: activation.name)
@pytest.mark.parametrize("batch", [6, 16])
def test_the_expectation_over_the_sphere_by_sampling_it(activation, batch):
    """The trace of E J' D G D J, with J the Jacobian of centring and scaling, beside that of the next layer's covariance."""
    generator = np.random.default_rng(0)
    draws = generator.normal(size=(100_000, batch))
    draws -= draws.mean(axis=1, keepdims=True)
    h = draws * math.sqrt(batch) / np.linalg.norm(draws, axis=1, keepdims=True)
    values, slopes = activation.function(h), activation.derivative(h)
    # tr (G - h h' / B) D G D with G the projection on what has no mean.
    along = h * slopes
    of_projection = (slopes**2).sum(1) * (1.0 - 2.0 / batch) + slopes.sum(1) ** 2 / batch**2
    of_direction = ((along**2).sum(1) - along.sum(1) ** 2 / batch) / batch
    backward = (of_projection - of_direction).mean()
    forward = ((values**2).sum(1) - values.sum(1) ** 2 / batch).mean()
    assert chi_with_batch_norm(activation, batch) == pytest.approx(batch / (batch - 3.0) * backward / forward, rel=5e-3)


def test_smaller_batches_explode_more():
    factors = [batch_norm_gradient_factor(RELU, batch) for batch in (4, 8, 32, 128, math.inf)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(math.sqrt(math.pi / (math.pi - 1.0)), rel=1e-9)
