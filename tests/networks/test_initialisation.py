from __future__ import annotations

import math

import pytest
import torch

from headwater.networks import NetworkSpec, SpecificationError, build, initial_parameters
from headwater.networks.critical_point import critical_point, theory_activation
from headwater.networks.initialisation import layer_variances, weight_layers
from headwater.networks.specification import ACTIVATIONS, INITIALISATIONS
from headwater.theory.mean_field import chi, fixed_point, variance_map

SEEDS = [3, -1, 2**40]


def parameters(spec, seed=0):
    return dict(build(spec, seed).named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shortcut", ["identity", "learned"])
@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_the_slice_of_a_seed_is_the_single_network_bit_for_bit(initialisation, shortcut, dtype):
    spec = NetworkSpec(depth=4, width=17, num_inputs=5, shortcut=shortcut, initialisation=initialisation)
    stacked = initial_parameters(spec, SEEDS, dtype=dtype)
    for index, seed in enumerate(SEEDS):
        single = dict(build(spec, seed, dtype=dtype).named_parameters())
        assert list(stacked) == list(single)
        for name, parameter in single.items():
            assert stacked[name].dtype == dtype
            assert torch.equal(stacked[name][index], parameter), name


def test_the_global_generator_stays_as_it_is():
    before = torch.get_rng_state()
    build(NetworkSpec(initialisation="lsuv", normalisation="batch", shortcut="highway"), 1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("initialisation", ["default", "he", "orthogonal", "critical", "lsuv"])
def test_variants_of_one_seed_have_the_same_parameters(initialisation):
    # LSUV alone depends on what a layer reads, so with it only the variants' first layer is the same.
    plain = parameters(NetworkSpec(depth=5, width=9, activation="tanh", initialisation=initialisation))
    for shortcut in ("identity", "scaled", "learned", "highway"):
        other = parameters(
            NetworkSpec(depth=5, width=9, activation="tanh", initialisation=initialisation, shortcut=shortcut)
        )
        shared = [name for name in plain if initialisation != "lsuv" or name.startswith("layers.0")]
        assert all(torch.equal(plain[name], other[name]) for name in shared)
        added = sorted(set(other) - set(plain))
        if shortcut in ("identity", "scaled"):
            assert added == []
        elif shortcut == "learned":
            assert added == [f"layers.{index}.alpha" for index in range(1, 5)]
        else:
            assert added == sorted(
                f"layers.{index}.gate.{kind}" for index in range(1, 5) for kind in ("weight", "bias")
            )


def test_default_is_uniform_as_in_pytorch():
    spec = NetworkSpec(depth=2, width=100, num_inputs=25)
    drawn = initial_parameters(spec, range(50))
    for name, bound in (("layers.0.linear", 0.2), ("layers.1.linear", 0.1), ("head", 0.1)):
        for kind in ("weight", "bias"):
            values = drawn[f"{name}.{kind}"].double()
            assert values.abs().max() <= bound
            assert values.abs().max() > 0.99 * bound
            # A uniform variable's squares have the mean b²/3 and the deviation b² sqrt(4/45).
            error = bound**2 * math.sqrt(4 / 45 / values.numel())
            assert values.square().mean().item() == pytest.approx(bound**2 / 3, abs=5 * error)


@pytest.mark.parametrize(
    ("initialisation", "weight_variance"),
    [("glorot", lambda i, o: 2 * i / (i + o)), ("he", lambda i, o: 2.0), ("lecun", lambda i, o: 1.0)],
)
def test_normal_weights_have_the_published_variance(initialisation, weight_variance):
    spec = NetworkSpec(depth=2, width=60, num_inputs=20, initialisation=initialisation)
    drawn = initial_parameters(spec, range(50))
    for layer in weight_layers(spec):
        values = drawn[f"{layer.module}.weight"].double()
        expected = weight_variance(layer.fan_in, layer.fan_out)
        error = expected * math.sqrt(2 / values.numel())
        assert values.square().mean().item() * layer.fan_in == pytest.approx(expected, abs=5 * error)
        assert not drawn[f"{layer.module}.bias"].any()


@pytest.mark.parametrize("initialisation", ["default", "he", "orthogonal", "critical"])
def test_variances_of_the_specification_replace_those_of_the_initialisation(initialisation):
    spec = NetworkSpec(
        depth=2, width=60, num_inputs=20, initialisation=initialisation, weight_variance=1.7, bias_variance=0.3
    )
    drawn = initial_parameters(spec, range(100))
    for layer in weight_layers(spec):
        weights, biases = drawn[f"{layer.module}.weight"].double(), drawn[f"{layer.module}.bias"].double()
        # An orthogonal matrix's squares add up exactly, others scatter.
        assert weights.square().mean().item() * layer.fan_in == pytest.approx(
            1.7, abs=5 * 1.7 * math.sqrt(2 / weights.numel())
        )
        assert biases.square().mean().item() == pytest.approx(0.3, abs=5 * 0.3 * math.sqrt(2 / biases.numel()))


@pytest.mark.parametrize(("num_inputs", "width"), [(8, 8), (5, 12), (12, 5)])
def test_orthogonal_matrices_are_isometries_up_to_one_factor(num_inputs, width):
    spec = NetworkSpec(depth=1, width=width, num_inputs=num_inputs, initialisation="orthogonal", weight_variance=1.5)
    weights = initial_parameters(spec, range(20), dtype=torch.float64)["layers.0.linear.weight"]
    is_tall = width >= num_inputs
    gram = weights.mT @ weights if is_tall else weights @ weights.mT
    factor = 1.5 * (width / num_inputs if is_tall else 1.0)
    torch.testing.assert_close(gram, factor * torch.eye(len(gram[0]), dtype=torch.float64).expand_as(gram))


def test_orthogonal_matrices_are_uniformly_distributed():
    # Of Haar-distributed 2 x 2 matrices, half are rotations, and the first column is uniform on the circle.
    spec = NetworkSpec(depth=1, width=2, num_inputs=2, initialisation="orthogonal")
    weights = initial_parameters(spec, range(4000))["layers.0.linear.weight"].double()
    assert (torch.linalg.det(weights) > 0).double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(4000))
    for power in (1, 2, 3, 4):
        angle = torch.atan2(weights[:, 1, 0], weights[:, 0, 0])
        assert abs(torch.cos(power * angle).mean().item()) < 5 * math.sqrt(0.5 / 4000)
        assert abs(torch.sin(power * angle).mean().item()) < 5 * math.sqrt(0.5 / 4000)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "softplus"])
def test_at_the_critical_point_chi_is_one_where_the_variance_ends(activation):
    point, function = critical_point(activation), theory_activation(activation)
    if activation in ("tanh", "erf", "hardtanh", "elu"):  # the origin, which is reached as slowly as 1 / depth
        assert chi(function, point, 0.0) == pytest.approx(1.0, abs=1e-9)
        assert point.bias_variance == 0.0
        return
    if activation in (
        "gelu",
        "gelu_tanh",
        "silu",
    ):  # half-stable (Roberts et al. 2021): reached slowly, too, and from above
        variance = {"gelu": (3 + math.sqrt(17)) / 2, "gelu_tanh": 3.5615, "silu": 14.3202}[activation]
        assert variance_map(function, point, variance) == pytest.approx(variance, rel=1e-5)
    else:
        variance = fixed_point(function, point)
    assert chi(function, point, variance) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("activation", "weight_variance", "bias_variance"),
    [
        ("linear", 1.0, 0.0),
        ("relu", 2.0, 0.0),
        ("tanh", 1.0, 0.0),
        ("erf", math.pi / 4, 0.0),
        ("gelu", 1.983058, 0.172922),
        ("silu", 1.988005, 0.555143),
    ],
)
def test_critical_points_are_the_published_ones(activation, weight_variance, bias_variance):
    point = critical_point(activation)
    assert point.weight_variance == pytest.approx(weight_variance, abs=1e-6)
    assert point.bias_variance == pytest.approx(bias_variance, abs=1e-6)


def test_an_activation_without_a_critical_point_says_so():
    with pytest.raises(SpecificationError, match="softplus has no critical point"):
        critical_point("softplus")
    given = NetworkSpec(activation="softplus", initialisation="critical", weight_variance=1.0, bias_variance=0.1)
    assert build(given) is not None


def test_fixup_and_deepnorm_scale_the_branches():
    spec = NetworkSpec(depth=17, width=8, shortcut="identity", initialisation="fixup")
    stem, *branches, head = weight_layers(spec)
    assert layer_variances(spec, stem)[0] == 2.0
    assert {layer_variances(spec, layer)[0] for layer in branches} == {2.0 / 16}
    assert layer_variances(spec, head) == (0.0, 0.0)
    spec = NetworkSpec(depth=17, width=8, shortcut="identity", initialisation="deepnorm")
    _, *branches, head = weight_layers(spec)
    assert layer_variances(spec, branches[0])[0] == pytest.approx(1.0 / 8)  # beta² = 1 / sqrt(8 N), N = 8
    assert layer_variances(spec, head)[0] == pytest.approx(2 * 8 / 12)


def test_the_critical_point_is_that_of_what_a_layer_reads():
    spec = NetworkSpec(family="transformer", depth=1, activation="gelu", initialisation="critical")
    found = {layer.module: layer_variances(spec, layer) for layer in weight_layers(spec)}
    gelu, linear = (1.98305825749, 0.172922390666), (1.0, 0.0)
    assert found["layers.0.feed_forward.linear2"] == pytest.approx(gelu)
    assert {found[f"layers.0.{name}"] for name in ("attention.value", "attention.out", "feed_forward.linear1")} == {
        linear
    }


def test_a_default_device_does_not_change_the_network():
    spec = NetworkSpec(family="conv", depth=10, width=2, shortcut="learned", normalisation="rms")
    expected = parameters(spec)
    with torch.device("meta"):
        found = parameters(spec)
        stacked = initial_parameters(spec, [0])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(stacked[name][0], expected[name]) for name in expected)


def test_layers_are_pytorchs_own():
    kinds = {type(module) for module in build(NetworkSpec(family="conv", depth=10, width=2)).modules()}
    assert {torch.nn.Linear, torch.nn.Conv2d} <= kinds
    assert not any("Empty" in kind.__name__ for kind in kinds)
