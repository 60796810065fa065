"""Conv nets, transformers and recurrent nets: vmap and the loop against plain autograd in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from headwater.lab.ensembles import measure_ensemble
from headwater.networks import NetworkSpec, build
from headwater.networks.families import input_shape
from tests.lab.ensembles.test_methods_agree import assert_same
from tests.oracles.ensembles import measure_slowly

SEEDS = [4, 9]
COTANGENT = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))


def spec_and_inputs(line):
    spec = NetworkSpec.parse(f"{line} num_inputs=5 num_outputs=3 initialisation=glorot")
    return spec, torch.randn(6, *input_shape(spec), generator=torch.Generator().manual_seed(1))


def conv_layers(norm_position):
    first = "conv1" if norm_position == "pre" else "activation1"
    blocks = [
        layer
        for block in range(1, 5)
        for layer in (
            (f"layers.{block}.{first}", f"layers.{block}.conv1.weight"),
            (f"layers.{block}", f"layers.{block}.conv2.weight"),
        )
    ]
    return [("layers.0", "layers.0.conv.weight"), *blocks, ("head", "head.weight")]


def transformer_layers(depth, norm_position):
    blocks = [
        layer
        for block in (f"layers.{index}" for index in range(depth))
        for layer in (
            *((f"{block}.attention.{name}", f"{block}.attention.{name}.weight") for name in ("query", "key", "value")),
            (
                f"{block}.attention_norm" if norm_position == "post" else f"{block}.attention.out",
                f"{block}.attention.out.weight",
            ),
            (f"{block}.feed_forward.activation", f"{block}.feed_forward.linear1.weight"),
            (block, f"{block}.feed_forward.linear2.weight"),
        )
    ]
    return [("embedding", "embedding.weight"), *blocks, ("head", "head.weight")]


def assert_measured(spec, inputs, layers):
    expected = measure_slowly(spec, SEEDS, inputs, layers, cotangent=COTANGENT)
    for method in ("vmap", "loop"):
        exact = measure_ensemble(spec, SEEDS, inputs.double(), cotangent=COTANGENT, method=method)
        assert_same(exact, expected, rtol=1e-9)
    single = [measure_ensemble(spec, SEEDS, inputs, cotangent=COTANGENT, method=method) for method in ("vmap", "loop")]
    assert_same(*single)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize(
    "rest",
    [
        "normalisation=batch shortcut=identity",
        "normalisation=layer",
        "normalisation=rms shortcut=learned",
        "shortcut=scaled",
    ],
)
def test_conv_nets(rest, norm_position):
    spec, inputs = spec_and_inputs(f"conv depth=10 width=4 activation=tanh norm_position={norm_position} {rest}")
    assert_measured(spec, inputs, conv_layers(norm_position))


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("rest", ["normalisation=layer shortcut=identity", "normalisation=rms shortcut=learned"])
def test_transformers(rest, norm_position):
    spec, inputs = spec_and_inputs(f"transformer depth=2 width=32 norm_position={norm_position} {rest}")
    assert_measured(spec, inputs, transformer_layers(2, norm_position))


def in_steps(model, inputs):
    """Each step's own copy of the cell and its states, leaves of the rest of the pass; the gradients are in them afterwards."""
    cells = [copy.deepcopy(model.cell) for _ in range(inputs.shape[1])]
    states, joints = [], []
    state = tuple(torch.zeros(len(inputs), model.width, dtype=inputs.dtype) for _ in range(model.cell.num_states))
    for cell, x in zip(cells, inputs.unbind(1), strict=True):
        states.append(cell(x, state))
        state = tuple(part.detach().requires_grad_() for part in states[-1])
        joints.append(state)
    output = model.head(state[0])
    output.backward(COTANGENT.double())
    for own, joint in zip(reversed(states), reversed(joints), strict=True):
        torch.autograd.backward(own, [torch.zeros_like(part) if part.grad is None else part.grad for part in joint])
    return cells, joints


@pytest.mark.parametrize("method", ["vmap", "loop"])
@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_time_steps_are_layers_with_states_and_shares_of_the_weight_gradient(family, method):
    spec, inputs = spec_and_inputs(f"{family} depth=7 width=6 activation=tanh")
    measured = measure_ensemble(spec, SEEDS, inputs.double(), cotangent=COTANGENT, method=method)
    assert measured.layers == (*(f"steps.{step}" for step in range(7)), "head")
    for row, seed in enumerate(SEEDS):
        model = build(spec, seed, dtype=torch.float64)
        cells, joints = in_steps(model, inputs.double())
        shares = [cell.input.weight.grad for cell in cells]
        np.testing.assert_allclose(
            measured.weight_gradient_norm[row, :-1], [s.norm().item() for s in shares], rtol=1e-9
        )
        mean_abs = [share.abs().mean().item() for share in shares]
        np.testing.assert_allclose(measured.weight_gradient_mean_abs[row, :-1], mean_abs, rtol=1e-9)
        rms = [torch.cat(joint).detach().square().mean().sqrt().item() for joint in joints]
        np.testing.assert_allclose(measured.activation_rms[row, :-1], rms, rtol=1e-9)
        gradients = [torch.cat([part.grad for part in joint if part.grad is not None]) for joint in joints]
        gains = [(gradient.norm() / COTANGENT.double().norm()).item() for gradient in gradients]
        np.testing.assert_allclose(10.0 ** measured.gain_decades[row, :-1], gains, rtol=1e-9)
        model(inputs.double()).backward(COTANGENT.double())
        torch.testing.assert_close(sum(shares), model.cell.input.weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_vmap_over_time_is_the_loop_in_float32(family):
    spec, inputs = spec_and_inputs(f"{family} depth=7 width=6 activation=tanh")
    assert_same(measure_ensemble(spec, SEEDS, inputs), measure_ensemble(spec, SEEDS, inputs, method="loop"))


def test_a_recurrence_that_leaves_float32_has_the_decades_of_float64():
    spec = NetworkSpec(family="rnn", depth=100, width=8, num_inputs=3, activation="sigmoid")
    inputs = torch.randn(4, 100, 3, generator=torch.Generator().manual_seed(1))
    measured = measure_ensemble(spec, [0, 1, 2], inputs)
    assert (measured.gain_decades[:, 0] < -60).all()
    exact = measure_ensemble(spec, [0, 1, 2], inputs.double())
    np.testing.assert_allclose(measured.gain_decades, exact.gain_decades, atol=1e-4)


def test_groups_of_networks_change_nothing():
    spec, inputs = spec_and_inputs("conv depth=10 width=4 normalisation=batch shortcut=identity")
    whole = measure_ensemble(spec, range(5), inputs)
    assert_same(measure_ensemble(spec, range(5), inputs, max_extra_bytes=1_500_000), whole)
