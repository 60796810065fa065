from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from headwater.networks import NetworkSpec, SpecificationError, build, initial_parameters
from headwater.networks.families import input_shape, weight_layers
from headwater.networks.layer_plan import Role
from headwater.networks.specification import (
    ACTIVATIONS,
    FAMILIES,
    INITIALISATIONS,
    NORM_POSITIONS,
    NORMALISATIONS,
    SHORTCUTS,
)

SIZES = {
    "mlp": dict(depth=3, width=8),
    "conv": dict(depth=10, width=2),
    "transformer": dict(depth=2, width=8),
    "rnn": dict(depth=3, width=8),
    "gru": dict(depth=3, width=8),
    "lstm": dict(depth=3, width=8),
}
NUM_SAMPLES = 6


def inputs_of(spec, dtype=torch.float64, num_samples=NUM_SAMPLES):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_samples, *input_shape(spec), generator=generator, dtype=dtype)


def specifications(family, **fixed):
    """Every combination that the specification allows, the activation walking through all of them."""
    axes = (INITIALISATIONS, NORMALISATIONS, NORM_POSITIONS, SHORTCUTS)
    activations = itertools.cycle(ACTIVATIONS)
    for initialisation, normalisation, norm_position, shortcut in itertools.product(*axes):
        fields = dict(
            family=family,
            **SIZES[family],
            num_inputs=3,
            num_outputs=2,
            activation=next(activations),
            initialisation=initialisation,
            normalisation=normalisation,
            norm_position=norm_position,
            shortcut=shortcut,
        )
        try:
            yield NetworkSpec(**{**fields, **fixed})
        except SpecificationError:
            continue


def check_forward_and_backward(spec):
    model = build(spec, 5, dtype=torch.float64)
    output = model(inputs_of(spec))
    assert output.shape == (NUM_SAMPLES, 2), spec
    output.square().sum().backward()
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        assert torch.isfinite(parameter).all(), (spec, name)
        assert parameter.grad is not None, (spec, name)
        assert torch.isfinite(parameter.grad).all(), (spec, name)
    if spec.initialisation in ("fixup", "rezero"):  # zeros, which keep the gradient from what stands before them
        return
    for layer in weight_layers(spec):
        assert parameters[f"{layer.module}.weight"].grad.any(), (spec, layer.module)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_of_a_family_runs_forward_and_backward(family):
    for spec in specifications(family):
        check_forward_and_backward(spec)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_runs_in_every_family(family, activation):
    for initialisation in ("default", "lsuv", *(("critical",) if activation != "softplus" else ())):
        fields = dict(activation=activation, initialisation=initialisation, num_inputs=3, num_outputs=2)
        check_forward_and_backward(NetworkSpec(family=family, **SIZES[family], **fields))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_slice_of_a_seed_is_the_single_network_bit_for_bit_in_every_family(family):
    for spec in itertools.islice(specifications(family, activation="tanh"), 0, None, 7):
        stacked = initial_parameters(spec, [3, 8])
        single = dict(build(spec, 8).named_parameters())
        assert list(stacked) == list(single)
        assert all(torch.equal(stacked[name][1], parameter) for name, parameter in single.items()), spec


@pytest.mark.parametrize("family", ["conv", "transformer"])
@pytest.mark.parametrize("normalisation", ["none", "layer"])
@pytest.mark.parametrize("initialisation", ["default", "he", "orthogonal", "critical"])
def test_shortcuts_add_no_parameters_but_one_scalar_a_branch_if_learned(family, normalisation, initialisation):
    fields = dict(family=family, **SIZES[family], normalisation=normalisation, initialisation=initialisation)
    plain = dict(build(NetworkSpec(**fields), 2).named_parameters())
    for shortcut in ("identity", "scaled", "learned"):
        spec = NetworkSpec(**fields, shortcut=shortcut)
        other = dict(build(spec, 2).named_parameters())
        assert all(torch.equal(plain[name], other[name]) for name in plain)
        added = [parameter for name, parameter in other.items() if name not in plain]
        assert [tuple(parameter.shape) for parameter in added] == [()] * (
            spec.num_blocks if shortcut == "learned" else 0
        )


def plain_mlp(spec, parameters, x):
    """The documented formulas, one after the other."""
    norms = {
        "none": lambda h, name: h,
        "batch": lambda h, name: (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt(),
        "layer": lambda h, name: (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt(),
        "rms": lambda h, name: h / (h.square().mean(1, keepdim=True) + 1e-5).sqrt(),
    }
    norm, act = norms[spec.normalisation], {"tanh": torch.tanh, "relu": lambda h: h.clamp(min=0)}[spec.activation]
    number_of_branches = spec.depth - 1
    returned = []
    for index in range(spec.depth):
        weight, bias = (parameters[f"layers.{index}.linear.{kind}"] for kind in ("weight", "bias"))
        if index > 0 and spec.norm_position == "pre":
            branch = act(norm(x, index) @ weight.T + bias)
        elif spec.norm_position == "pre":
            branch = act(x @ weight.T + bias)
        else:
            branch = act(norm(x @ weight.T + bias, index))
        if index == 0 or spec.shortcut == "none":
            x = branch
        elif spec.shortcut == "identity":
            x = x + branch
        elif spec.shortcut == "scaled":
            x = x + branch / math.sqrt(number_of_branches)
        elif spec.shortcut == "learned":
            x = x + parameters[f"layers.{index}.alpha"] * branch
        elif spec.shortcut == "highway":
            gate = torch.sigmoid(
                x @ parameters[f"layers.{index}.gate.weight"].T + parameters[f"layers.{index}.gate.bias"]
            )
            x = gate * branch + (1 - gate) * x
        returned.append(x if spec.shortcut != "dense" or index == 0 else branch)
        if spec.shortcut == "dense":
            x = torch.cat(returned, 1)
    return x @ parameters["head.weight"].T + parameters["head.bias"]


@pytest.mark.parametrize("norm_position", NORM_POSITIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_an_mlp_computes_its_documented_formula(shortcut, normalisation, norm_position):
    spec = NetworkSpec(
        depth=4,
        width=6,
        num_inputs=3,
        activation="tanh",
        shortcut=shortcut,
        normalisation=normalisation,
        norm_position=norm_position,
    )
    model = build(spec, 1, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                parameter.fill_(0.3)
    x = inputs_of(spec)
    torch.testing.assert_close(model(x), plain_mlp(spec, dict(model.named_parameters()), x))


@pytest.mark.parametrize(("family", "cell"), [("rnn", nn.RNNCell), ("gru", nn.GRUCell), ("lstm", nn.LSTMCell)])
def test_cells_with_tanh_are_those_of_pytorch(family, cell):
    spec = NetworkSpec(family=family, depth=5, width=7, num_inputs=3, activation="tanh")
    model, of_pytorch = build(spec, 1, dtype=torch.float64), cell(3, 7, dtype=torch.float64)
    with torch.no_grad():
        for name, ours in (("ih", model.cell.input), ("hh", model.cell.hidden)):
            getattr(of_pytorch, f"weight_{name}").copy_(ours.weight)
            getattr(of_pytorch, f"bias_{name}").copy_(ours.bias)
    x = inputs_of(spec)
    state = None
    for step in x.unbind(1):
        state = of_pytorch(step, state)
    last = state[0] if family == "lstm" else state
    torch.testing.assert_close(model(x), model.head(last))


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_the_default_of_cells_is_that_of_pytorch(family):
    # U(±1/sqrt(width)) for every parameter, those that read the input included.
    spec = NetworkSpec(family=family, width=16, num_inputs=400)
    drawn = initial_parameters(spec, range(40))
    for name in ("cell.input.weight", "cell.input.bias", "cell.hidden.weight", "cell.hidden.bias"):
        assert 0.99 / 4 < drawn[name].abs().max() <= 1 / 4


@pytest.mark.parametrize("family", ["rnn", "gru", "lstm"])
def test_every_gate_of_a_cell_has_its_own_orthogonal_matrix(family):
    spec = NetworkSpec(family=family, width=9, initialisation="orthogonal", weight_variance=0.64)
    drawn = initial_parameters(spec, range(4), dtype=torch.float64)
    gates = drawn["cell.hidden.weight"].unflatten(1, (-1, 9))
    identity = 0.64 * torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(gates @ gates.mT, identity.expand(4, gates.shape[1], 9, 9))
    assert not drawn["cell.hidden.bias"].any()


def test_attention_is_the_softmax_of_products():
    spec = NetworkSpec(family="transformer", depth=1, width=32, num_inputs=3)
    attention = build(spec, 1, dtype=torch.float64).layers[0].attention
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros_like(x)
    for head in (slice(0, 16), slice(16, 32)):
        query, key, value = (
            x @ p.weight[head].T + p.bias[head] for p in (attention.query, attention.key, attention.value)
        )
        weights = torch.softmax(query @ key.mT / 4.0, dim=-1)
        expected[..., head] = weights @ value
    torch.testing.assert_close(attention(x), attention.out(expected))


@pytest.mark.parametrize("norm_position", NORM_POSITIONS)
def test_a_transformer_block_has_its_norms_where_they_are_said_to_be(norm_position):
    spec = NetworkSpec(
        family="transformer", depth=1, width=16, normalisation="layer", norm_position=norm_position, shortcut="identity"
    )
    block = build(spec, 1, dtype=torch.float64).layers[0]
    x = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def norm(h):
        return F.layer_norm(h, (16,), eps=1e-5)

    if norm_position == "pre":
        after = x + block.attention(norm(x))
        expected = after + block.feed_forward(norm(after))
    else:
        after = norm(x + block.attention(x))
        expected = norm(after + block.feed_forward(after))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("norm_position", NORM_POSITIONS)
@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_a_basic_block_has_its_norms_and_activations_where_they_are_said_to_be(shortcut, norm_position):
    spec = NetworkSpec(
        family="conv",
        depth=10,
        width=4,
        activation="tanh",
        normalisation="batch",
        norm_position=norm_position,
        shortcut=shortcut,
    )
    block = build(spec, 1, dtype=torch.float64).layers[1]
    x = torch.randn(6, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def norm(h):
        return F.batch_norm(h, None, None, training=True, eps=1e-5)

    shortcut_output = x if shortcut == "identity" else 0.0
    if norm_position == "pre":
        expected = shortcut_output + block.conv2(torch.tanh(norm(block.conv1(torch.tanh(norm(x))))))
    else:
        expected = torch.tanh(shortcut_output + norm(block.conv2(torch.tanh(norm(block.conv1(x))))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 12])
def test_a_conv_net_takes_images_of_any_size(size):
    model = build(NetworkSpec(family="conv", depth=10, width=2, num_inputs=1, shortcut="identity"))
    assert model(torch.ones(3, 1, size, size)).shape == (3, 4)
    assert model(torch.ones(3, 1, size, 1)).shape == (3, 4)


def test_a_halving_block_keeps_the_means_and_adds_zeros():
    block = build(NetworkSpec(family="conv", depth=10, width=2, shortcut="identity")).layers[2]
    x = torch.arange(2.0 * 16).reshape(1, 2, 4, 4)
    shortcut = block.shortcut(x)
    assert shortcut.shape == (1, 4, 2, 2)
    assert shortcut[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert not shortcut[:, 2:].any()


@pytest.mark.parametrize("normalisation", ["layer", "rms"])
def test_norms_of_images_give_each_sample_the_size_1(normalisation):
    spec = NetworkSpec(family="conv", depth=10, width=4, normalisation=normalisation)
    x = 3.0 + 5.0 * torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    normalised = build(spec).layers[1].norm1(x)
    torch.testing.assert_close(normalised.square().mean((1, 2, 3)), torch.ones(6))
    if normalisation == "layer":
        torch.testing.assert_close(normalised.mean((1, 2, 3)), torch.zeros(6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("depth", [10, 18, 34])
def test_a_conv_net_has_as_many_weight_layers_as_its_depth_says(depth):
    spec = NetworkSpec(family="conv", depth=depth, width=2)
    model = build(spec)
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(modules) == depth == len(weight_layers(spec))
    assert len(model.layers) == 1 + spec.num_blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_the_planned_layers_are_those_of_the_module_in_forward_order(family):
    for shortcut in SHORTCUTS:
        try:
            spec = NetworkSpec(family=family, **SIZES[family], num_inputs=3, shortcut=shortcut)
        except SpecificationError:
            continue
        model = build(spec)
        ran: list[str] = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda *_, name=name, ran=ran: ran.append(name))
        model(inputs_of(spec, torch.float32))
        plans = weight_layers(spec)
        assert sorted(set(ran)) == sorted(plan.module for plan in plans)
        assert list(dict.fromkeys(name for name in ran if "gate" not in name)) == [
            plan.module for plan in plans if plan.role is not Role.GATE
        ]
        for plan in plans:
            weight = model.get_submodule(plan.module).weight
            assert tuple(weight.shape) == plan.shape
            assert weight[0].numel() == plan.fan_in


@pytest.mark.parametrize(
    ("line", "shape", "words"),
    [
        ("mlp num_inputs=3", (5, 4), "(..., 3), got (5, 4)"),
        ("mlp num_inputs=3", (), "(..., 3), got ()"),
        ("conv depth=10 num_inputs=1", (5, 8, 8), "(batch, 1, height, width), got (5, 8, 8)"),
        ("transformer depth=1 num_inputs=3", (5, 3), "(batch, positions, 3), got (5, 3)"),
        ("lstm depth=4 num_inputs=3", (5, 6, 3), "(batch, 4, 3), got (5, 6, 3)"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_in_one_sentence(line, shape, words):
    with pytest.raises(ValueError, match="expected an input of shape") as error:
        build(NetworkSpec.parse(line))(torch.zeros(shape))
    assert words in str(error.value)
