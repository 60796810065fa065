"""The order of weights, norm and activation is the one that the closed forms are about."""

from __future__ import annotations

import math

import pytest
import torch

from headwater.networks import NetworkSpec, build
from headwater.networks.critical_point import theory_activation
from headwater.theory.batch_norm import chi_with_batch_norm
from headwater.theory.mean_field import Initialisation, chi, chi_with_layer_norm, variance_map
from headwater.theory.quadrature import gaussian_mean

DEPTH, WIDTH, FIRST = 24, 256, 4


def measured_log_chi(spec, num_samples):
    """Mean over layers and seeds of ln(squared gradient norm at a layer's output / the same at the next's)."""
    found = []
    for seed in range(4):
        model = build(spec, seed, dtype=torch.float64)
        returned = []
        for layer in model.layers:
            layer.register_forward_hook(lambda _m, _i, output, returned=returned: returned.append(output))
        model(torch.randn(num_samples, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
        last = returned[-1]
        cotangent = torch.randn(last.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(99 + seed))
        (first,) = torch.autograd.grad(last, returned[FIRST], cotangent)
        found.append(math.log(first.square().sum() / cotangent.square().sum()) / (DEPTH - 1 - FIRST))
    return sum(found) / len(found)


def mlp(activation, normalisation, norm_position, **fields):
    return NetworkSpec(
        depth=DEPTH,
        width=WIDTH,
        num_inputs=WIDTH,
        activation=activation,
        normalisation=normalisation,
        norm_position=norm_position,
        **{"initialisation": "he", **fields},
    )


# The log of a layer's factor scatters by sqrt(5 / n) at most and lies below that of its mean by half the square (Hanin 2018):
# four deviations of the mean over layers and seeds, and that shift.
TOLERANCE = 4.0 * math.sqrt(5.0 / WIDTH / (DEPTH - 1 - FIRST) / 4) + 2.5 / WIDTH


@pytest.mark.parametrize("weight_variance", [0.5, 2.0])
@pytest.mark.parametrize("normalisation", ["layer", "rms"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_norm_after_the_weights_has_the_chi_of_layer_norm_before_the_activation(
    activation, normalisation, weight_variance
):
    spec = mlp(activation, normalisation, "post", weight_variance=weight_variance)
    expected = math.log(chi_with_layer_norm(theory_activation(activation)))
    assert measured_log_chi(spec, 8) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_batch_norm_after_the_weights_has_the_chi_of_batch_norm_before_the_activation(activation):
    expected = math.log(chi_with_batch_norm(theory_activation(activation)))
    assert measured_log_chi(mlp(activation, "batch", "post"), 512) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("normalisation", ["layer", "rms"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_norm_before_the_weights_divides_chi_by_the_size_of_what_the_activation_returned(activation, normalisation):
    function, point = theory_activation(activation), Initialisation(2.0, 0.3)
    variance = point.weight_variance + point.bias_variance  # of W applied to what has size 1
    size = variance_map(function, Initialisation(1.0), variance)
    if normalisation == "layer":
        size -= gaussian_mean(function.function, variance, function.kinks) ** 2
    expected = math.log(chi(function, point, variance) / size)
    spec = mlp(activation, normalisation, "pre", weight_variance=2.0, bias_variance=0.3)
    assert measured_log_chi(spec, 8) == pytest.approx(expected, abs=TOLERANCE)
