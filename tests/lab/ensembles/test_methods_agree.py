"""The fast ways are held to plain autograd in float64, for every kind of mlp."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from headwater.lab.ensembles import EnsembleMeasurements, measure_ensemble
from headwater.networks import NetworkSpec
from headwater.networks.specification import ACTIVATIONS, INITIALISATIONS, NORMALISATIONS, SHORTCUTS
from tests.oracles.ensembles import measure_slowly

SEEDS = [5, -2, 11]
INPUTS = torch.randn(32, 5, generator=torch.Generator().manual_seed(1))
COTANGENT = torch.randn(32, 3, generator=torch.Generator().manual_seed(2))


def small(**fields):
    return NetworkSpec(**dict(depth=4, width=16, num_inputs=5, num_outputs=3, initialisation="glorot") | fields)


def oracle(spec, **about):
    layers = [(f"layers.{index}", f"layers.{index}.linear.weight") for index in range(spec.depth)]
    return measure_slowly(spec, SEEDS, INPUTS, [*layers, ("head", "head.weight")], **about)


def assert_same(measured: EnsembleMeasurements, expected: EnsembleMeasurements, *, rtol=1e-5):
    assert measured.layers == expected.layers
    for name, one, other in zip(measured._fields[1:], measured[1:], expected[1:], strict=True):
        # A relative error of a gain is an absolute one of its decades.
        by = dict(rtol=0.0, atol=rtol / np.log(10)) if name == "gain_decades" else dict(rtol=rtol, atol=0.0)
        np.testing.assert_allclose(one, other, **by, err_msg=name)


@pytest.mark.parametrize("method", ["batched", "vmap", "loop"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_with_every_norm_in_float32(shortcut, normalisation, activation, method):
    for norm_position in ("pre", "post"):
        spec = small(shortcut=shortcut, normalisation=normalisation, norm_position=norm_position, activation=activation)
        measured = measure_ensemble(spec, SEEDS, INPUTS, cotangent=COTANGENT, method=method)
        assert_same(measured, oracle(spec, cotangent=COTANGENT))
        measured = measure_ensemble(spec, SEEDS, INPUTS.double(), cotangent=COTANGENT, method=method)
        assert_same(measured, oracle(spec, cotangent=COTANGENT), rtol=1e-10)


@pytest.mark.parametrize("method", ["batched", "vmap"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, method):
    spec = small(activation=activation, shortcut="identity")
    measured = measure_ensemble(spec, SEEDS, INPUTS, cotangent=COTANGENT, method=method)
    assert_same(measured, oracle(spec, cotangent=COTANGENT))


@pytest.mark.parametrize("shortcut", ["identity", "scaled", "learned"])
@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_every_initialisation(initialisation, shortcut):
    spec = small(initialisation=initialisation, activation="tanh", shortcut=shortcut)
    expected = oracle(spec, cotangent=COTANGENT)
    for method in ("batched", "vmap", "loop"):
        assert_same(measure_ensemble(spec, SEEDS, INPUTS, cotangent=COTANGENT, method=method), expected)


def test_the_variances_of_the_specification():
    spec = small(activation="tanh", weight_variance=1.7, bias_variance=0.05)
    assert_same(measure_ensemble(spec, SEEDS, INPUTS, cotangent=COTANGENT), oracle(spec, cotangent=COTANGENT))


def test_a_width_that_is_that_of_all_layers_before():
    # Whether a stream carries more than its layer's own features must not be read off its width alone.
    spec = small(depth=1, width=3, num_outputs=3, shortcut="dense")
    assert_same(measure_ensemble(spec, SEEDS, INPUTS, cotangent=COTANGENT), oracle(spec, cotangent=COTANGENT))


@pytest.mark.parametrize("method", ["batched", "vmap", "loop"])
def test_the_seeds_order_is_the_rows_order(method):
    spec = small(activation="gelu", shortcut="highway")
    straight = measure_ensemble(spec, SEEDS, INPUTS, method=method)
    reverse = measure_ensemble(spec, SEEDS[::-1], INPUTS, method=method)
    assert_same(EnsembleMeasurements(reverse.layers, *(column[::-1] for column in reverse[1:])), straight, rtol=1e-6)


@pytest.mark.parametrize("method", ["batched", "vmap", "loop"])
def test_groups_of_seeds_change_nothing(method):
    spec = small(normalisation="batch", shortcut="dense")
    seeds = range(9)
    whole = measure_ensemble(spec, seeds, INPUTS, method=method)
    for max_extra_bytes in (1, 100_000, 300_000):
        parts = measure_ensemble(spec, seeds, INPUTS, method=method, max_extra_bytes=max_extra_bytes)
        assert_same(parts, whole, rtol=1e-5)


@pytest.mark.parametrize("method", ["batched", "vmap", "loop"])
def test_a_loss_gives_cotangents_and_losses(method):
    spec = small(activation="tanh")
    labels = torch.arange(32) % 3
    expected = oracle(spec, loss=lambda output: F.cross_entropy(output, labels))
    assert_same(measure_ensemble(spec, SEEDS, INPUTS, targets=labels, loss=F.cross_entropy, method=method), expected)
    of_output = measure_ensemble(
        spec, SEEDS, INPUTS, loss=lambda output: F.cross_entropy(output, labels), method=method
    )
    assert_same(of_output, expected)


def test_a_loss_that_cannot_be_vectorised_runs_network_by_network():
    def loss(output, targets):
        return (output - targets).square().mean() if float(output.detach().sum()) < 1e9 else output.sum()

    spec, targets = small(activation="tanh"), torch.zeros(32, 3)
    expected = oracle(spec, loss=lambda output: output.square().mean())
    assert_same(measure_ensemble(spec, SEEDS, INPUTS, targets=targets, loss=loss), expected)


def test_random_cotangents_are_the_same_for_every_seed_specification_and_dtype():
    one = measure_ensemble(small(), [0, 1], INPUTS)
    other = measure_ensemble(small(shortcut="identity", activation="gelu"), [7], INPUTS.double())
    assert np.isnan(one.loss).all()
    assert one.cotangent_norm[0] == one.cotangent_norm[1]
    np.testing.assert_allclose(other.cotangent_norm, one.cotangent_norm[:1], rtol=1e-7)


def test_nothing_of_the_caller_changes():
    inputs = INPUTS.clone().requires_grad_()
    state = torch.get_rng_state()
    for method in ("batched", "vmap", "loop"):
        measure_ensemble(small(normalisation="batch"), SEEDS, inputs, method=method)
    assert inputs.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        measured = measure_ensemble(small(), SEEDS, INPUTS)
    assert_same(measured, measure_ensemble(small(), SEEDS, INPUTS), rtol=1e-12)


def test_a_network_without_hidden_shortcuts_is_the_same_under_each_of_their_names():
    # With one hidden layer there is nothing for a shortcut to go around.
    first, *others = (
        measure_ensemble(dataclasses.replace(small(depth=1), shortcut=shortcut), SEEDS, INPUTS)
        for shortcut in ("none", "identity", "scaled", "highway", "dense")
    )
    for other in others:
        assert_same(other, first, rtol=1e-12)
