"""The oracle is plain autograd in float64; the first comparison is the notebook's."""

from __future__ import annotations

import math
import multiprocessing
import random
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis import ratio_factors
from headwater.capture import Problem, observe
from headwater.capture.cpu_moments import fused_moments_unloaded, load_fused_moments
from headwater.networks import NetworkSpec, build
from tests.lab.networks import NOTEBOOK, SAMPLE, ZERO, classes, inputs, mlp


@pytest.fixture(scope="module")
def notebook():
    return hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=200)


@pytest.fixture(scope="module")
def one_seed():
    return hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=[123])


def test_the_notebook_s_weight_gradients_are_reproduced_to_six_digits(one_seed):
    without, with_shortcuts = (variant.measured.weight_gradient_mean_abs[0] for variant in one_seed.variants)
    assert without.tolist() == pytest.approx(
        [0.00020174118981231004, 0.00012011769285891205, 0.0007152436301112175, 0.00139885104727, 0.005049602594226599],
        rel=1e-6,
    )
    assert with_shortcuts.tolist() == pytest.approx(
        [0.22186800837516785, 0.20709273219108582, 0.3292388319969177, 0.2667772173881531, 1.3268063068389893], rel=1e-6
    )
    assert [float(variant.measured.loss[0]) for variant in one_seed.variants] == pytest.approx(
        [0.003722, 0.588565], abs=5e-7
    )


def test_the_notebook_s_ratio_has_its_factors(one_seed):
    first = one_seed.ratios["shortcut"].layers[0]
    assert first.weight_gradient.value == pytest.approx(1099.8, abs=0.05)
    assert first.loss_slope.value == pytest.approx(12.575, abs=5e-4)
    assert first.backward_gain.value == pytest.approx(87.455, abs=5e-4)
    assert first.forward_signal.value == pytest.approx(1.0, abs=1e-12)
    assert first.alignment.value == pytest.approx(1.0, abs=1e-6)
    for layer in one_seed.ratios["shortcut"].layers:
        product = (
            layer.loss_slope.value * layer.backward_gain.value * layer.forward_signal.value * layer.alignment.value
        )
        assert product == pytest.approx(layer.weight_gradient.value, rel=1e-12)


def test_over_200_seeds_the_medians_are_those_of_the_record(notebook):
    without, with_shortcuts = (notebook.profile[name].first_to_last for name in ("plain", "shortcut"))
    assert without.low < 0.0097 < without.high
    assert with_shortcuts.low < 0.122 < with_shortcuts.high
    gain = notebook.ratios["shortcut"].layers[0].backward_gain
    assert gain.low < 62 < gain.value < gain.high
    assert gain.value == pytest.approx(80.8, abs=0.1)


def test_the_verdict_of_200_seeds_is_a_sentence_with_gain_interval_and_share(notebook):
    assert notebook.verdict.startswith(
        "With 'shortcut' the first layer's gain is 83 × (63 to 100) higher than with 'plain' at equal cotangent; "
        "higher in 99 % of 200 seeds. "
    )
    assert "loss slope 1.3 ×, backward gain 81 ×, forward signal 1.0 ×" in notebook.verdict


def test_one_seed_is_no_evidence_and_the_verdict_says_so(one_seed):
    first = one_seed.ratios["shortcut"].layers[0]
    assert (first.gain.low, first.gain.high) == (0.0, math.inf)
    assert one_seed.verdict.startswith("One seed is no evidence: 6 or more give a 95 % interval.")
    five = hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=5)
    assert five.verdict.startswith("5 seeds are no evidence")
    six = hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=6)
    assert "no evidence" not in six.verdict


def test_the_factors_of_a_batch_are_those_of_the_recordings():
    variants = {"tanh": partial(mlp, 4), "relu": partial(mlp, 4, nn.ReLU)}
    found = hw.compare(variants, inputs(), classes(), loss=nn.CrossEntropyLoss(), seeds=[5])
    recordings = []
    for make in variants.values():
        with torch.random.fork_rng(devices=[]), fused_moments_unloaded():
            torch.manual_seed(5)
            recordings.append(observe(Problem(make(), inputs(), classes(), nn.CrossEntropyLoss())))
    for layer in found.ratios["relu"].layers:
        exact = ratio_factors(recordings[1], recordings[0], f"{layer.layer}.weight")
        for name in ("loss_slope", "backward_gain", "forward_signal", "alignment"):
            assert getattr(layer, name).value == pytest.approx(getattr(exact, name), rel=1e-12)
        assert layer.weight_gradient.value == pytest.approx(exact.ratio, rel=1e-12)


def test_gains_are_those_of_plain_autograd_in_float64():
    found = hw.compare({"a": partial(mlp, 5), "b": partial(mlp, 5, nn.GELU)}, inputs(), seeds=[2, 9])
    for variant, activation in zip(found.variants, (nn.Tanh, nn.GELU), strict=True):
        for row, seed in enumerate((2, 9)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = mlp(5, activation).double()
            x, outputs = inputs().double(), []
            for module in model:
                x = module(x)
                outputs.append(x)
            cotangent = torch.randn(
                x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
            ).double()
            linear = [out for module, out in zip(model, outputs, strict=True) if isinstance(module, nn.Linear)]
            gradients = torch.autograd.grad(x, linear, cotangent)
            exact = [math.log10(gradient.norm() / cotangent.norm()) for gradient in gradients]
            assert variant.measured.gain_decades[row].tolist() == pytest.approx(exact, abs=1e-6)


def test_the_same_network_twice_differs_in_nothing_even_where_it_draws_numbers():
    def make():
        return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 2))

    found = hw.compare({"one": make, "other": make}, inputs(), seeds=8)
    one, other = (variant.measured for variant in found.variants)
    assert np.array_equal(one.gradient_norm, other.gradient_norm)
    assert np.array_equal(one.cotangent_norm, other.cotangent_norm)
    gain = found.ratios["other"].layers[0].gain
    assert (gain.value, gain.low, gain.high, gain.num_higher, gain.num_lower) == (1.0, 1.0, 1.0, 0, 0)
    assert found.verdict.startswith("No difference is shown at the first layer")


def test_variants_that_draw_different_numbers_to_be_built_still_drop_the_same_units():
    def plain():
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 2))

    def after_other_draws():
        model = plain()
        torch.rand(17)
        return model

    found = hw.compare({"one": plain, "other": after_other_draws}, inputs(), seeds=3)
    one, other = (variant.measured for variant in found.variants)
    assert np.array_equal(one.weight_gradient_mean_abs, other.weight_gradient_mean_abs)


def test_a_steeper_loss_moves_the_loss_slope_alone():
    def steep(output, targets):
        return 1024.0 * nn.functional.cross_entropy(output, targets)

    variants = {"a": partial(mlp, 3), "b": partial(mlp, 3, nn.ReLU)}
    flat, steeper = (
        hw.compare(variants, inputs(), classes(), loss=loss, seeds=8) for loss in (nn.CrossEntropyLoss(), steep)
    )
    for one, other in zip(flat.variants, steeper.variants, strict=True):
        assert np.allclose(one.measured.gain_decades, other.measured.gain_decades, atol=1e-9)
        assert np.allclose(1024.0 * one.measured.cotangent_mean_abs, other.measured.cotangent_mean_abs, rtol=1e-9)
    assert flat.verdict == steeper.verdict


def test_the_other_order_gives_the_inverse():
    there = hw.compare(NOTEBOOK, SAMPLE, seeds=9)
    back = hw.compare(dict(reversed(NOTEBOOK.items())), SAMPLE, seeds=9)
    one, other = there.ratios["shortcut"].layers[0].gain, back.ratios["plain"].layers[0].gain
    assert one.value == pytest.approx(1.0 / other.value)
    assert one.low == pytest.approx(1.0 / other.high)
    assert "lower than with 'shortcut'" in back.verdict


def _state():
    numpys = np.random.get_state()
    return torch.get_rng_state().tolist(), numpys[1].tolist(), numpys[2], random.getstate()


def _breaks():
    torch.rand(3)
    raise RuntimeError("no such layer")


@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_s_random_states_and_settings_stay_what_they_were(fails):
    before = _state(), torch.get_num_threads(), torch.get_default_dtype()
    variants = {**NOTEBOOK, "broken": _breaks} if fails else NOTEBOOK
    try:
        hw.compare(variants, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=2, train=2)
    except hw.ProblemError:
        assert fails
    assert (_state(), torch.get_num_threads(), torch.get_default_dtype()) == before


def test_threads_give_the_serial_result_bit_for_bit():
    serial = hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=12, train=3)
    with ThreadPoolExecutor(4) as executor:
        spread = hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=12, train=3, executor=executor)
    assert spread == serial


AT_THE_TOP = lambda: mlp(2)  # noqa: E731  # its name is "<lambda>", which no process finds


def not_the_second():
    if torch.initial_seed() == 1:
        raise ValueError("not this one")
    return mlp(2)


def test_a_process_that_has_measured_much_gives_the_result_of_a_fresh_one():
    with fused_moments_unloaded():
        fresh = hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=8)
    assert load_fused_moments(at_once=True)
    assert hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=8) == fresh
    assert load_fused_moments()  # still there for others


def test_processes_give_the_serial_result_bit_for_bit():
    arguments = (NOTEBOOK, SAMPLE, ZERO)
    serial = hw.compare(*arguments, loss=nn.MSELoss(), seeds=4, train=2)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert hw.compare(*arguments, loss=nn.MSELoss(), seeds=4, train=2, executor=executor) == serial
        with pytest.raises(
            hw.ProblemError, match="define factories, loss and optimizer at the top of a module, or use loky"
        ):
            hw.compare({"a": lambda: mlp(2), "b": lambda: mlp(3)}, inputs(), executor=executor, seeds=2)
        with pytest.raises(hw.ProblemError, match="use loky"):
            hw.compare({"a": AT_THE_TOP, "b": AT_THE_TOP}, inputs(), executor=executor, seeds=2)
        with pytest.raises(hw.ProblemError, match="variant 'b', seed 1: the factory failed: ValueError: not this one"):
            hw.compare({"a": partial(mlp, 2), "b": not_the_second}, inputs(), executor=executor, seeds=2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_caller_s_gradient_mode_changes_nothing(mode):
    arguments = (NOTEBOOK, SAMPLE, ZERO)
    outside = hw.compare(*arguments, loss=nn.MSELoss(), seeds=2, train=2)
    with mode():
        assert hw.compare(*arguments, loss=nn.MSELoss(), seeds=2, train=2) == outside
        assert not torch.is_grad_enabled()


def test_a_factory_may_compare_networks_itself():
    def make():
        hw.compare(NOTEBOOK, SAMPLE, seeds=1)
        return mlp(1)

    plain = hw.compare({"a": partial(mlp, 1), "b": partial(mlp, 1)}, inputs(), seeds=1)
    nested = hw.compare({"a": make, "b": partial(mlp, 1)}, inputs(), seeds=1)
    assert nested.profile == plain.profile  # the comparison inside has moved no random state


def test_a_loss_with_a_state_of_its_own_stays_what_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, output, targets):
            self.calls += 1
            return nn.functional.cross_entropy(output, targets) * self.calls

    loss = Counting()
    found = hw.compare(
        {"one": partial(mlp, 1), "other": partial(mlp, 1)}, inputs(), classes(), loss=loss, seeds=2, train=3
    )
    assert loss.calls == 0
    one, other = found.curves.values()
    assert np.array_equal(one.loss, other.loss)


@pytest.mark.parametrize("seeds", [np.int64(3), np.arange(3), range(3), (0, 1, 2)])
def test_seeds_are_how_many_or_which_ones(seeds):
    assert hw.compare({"a": partial(mlp, 1), "b": partial(mlp, 1)}, inputs(), seeds=seeds).seeds == (0, 1, 2)


def test_loky_takes_lambdas():
    loky = pytest.importorskip("loky")
    variants = {"a": lambda: mlp(2), "b": lambda: mlp(2, nn.ReLU)}
    with loky.ProcessPoolExecutor(2) as executor:
        assert hw.compare(variants, inputs(), seeds=3, executor=executor) == hw.compare(variants, inputs(), seeds=3)


def test_a_specification_is_the_network_that_build_makes():
    line = "mlp depth=3 width=8 activation=tanh shortcut=identity"
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    found = hw.compare([line, NetworkSpec(depth=3, width=8, activation="tanh")], x, seeds=[4])
    assert [variant.name for variant in found.variants] == ["shortcut=identity", "shortcut=none"]
    model = build(NetworkSpec.parse(line), 4)
    with fused_moments_unloaded():
        alone = observe(Problem(model, x), seed=4)
    norms = [s.stats.norm for s in alone.select("weight_gradient") if s.item == "weight"]
    assert sorted(found.variants[0].measured.weight_gradient_norm[0]) == pytest.approx(sorted(norms), rel=1e-12)


def test_variants_of_different_depth_are_aligned_by_relative_depth():
    found = hw.compare({"deep": partial(mlp, 8), "shallow": partial(mlp, 4)}, inputs(), seeds=7)
    layers = found.ratios["shallow"].layers
    assert [(layer.layer, layer.baseline_layer) for layer in layers] == [
        ("0", "0"),
        ("2", "4"),
        ("4", "8"),
        ("6", "12"),
        ("8", "16"),
    ]
    assert layers[-1].gain.value == 1.0  # both are the output
    assert "aligned by relative depth" in str(found)


class _Dead(nn.Module):
    """A network whose first layer gets a gradient of exact zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.relu(self.first(x) - 1e6))


def test_a_gradient_that_is_exactly_zero_is_said_and_not_averaged_away():
    found = hw.compare({"alive": partial(mlp, 1), "dead": _Dead}, inputs(), seeds=8)
    assert found.variants[1].measured.gain_decades[:, 0].tolist() == [-math.inf] * 8
    assert found.ratios["dead"].layers[0].gain.value == 0.0
    assert found.verdict.startswith(
        "With 'dead' the first layer's gradient is exactly zero where the other's is not, in 100 % of 8 seeds."
    )
    both = hw.compare({"dead": _Dead, "also dead": _Dead}, inputs(), seeds=8)
    assert "cannot be compared" in both.verdict
    assert both.ratios["also dead"].layers[0].gain.num_undefined == 8


class _SometimesInfinite(nn.Module):
    """Overflows under about half of the seeds."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)
        self.scale = 1e30 if torch.rand(()) < 0.5 else 1.0

    def forward(self, x):
        return self.last(torch.exp(self.scale * self.first(x).abs()))


def test_seeds_whose_gradient_is_not_finite_are_counted_and_said():
    found = hw.compare({"tanh": partial(mlp, 1), "exp": _SometimesInfinite}, inputs(), seeds=20)
    gain = found.ratios["exp"].layers[0].gain
    assert 0 < gain.num_undefined < 20
    assert gain.num_pairs + gain.num_undefined == 20
    assert f"{gain.num_undefined} of 20 seeds have no such ratio" in found.verdict


def test_a_factory_that_seeds_itself_is_named():
    def always_the_same():
        torch.manual_seed(1)
        return mlp(2)

    found = hw.compare(
        {"drawn": partial(mlp, 2), "fixed": always_the_same}, inputs(), classes(), loss=nn.CrossEntropyLoss(), seeds=6
    )
    assert "'fixed' is the same network under every seed" in found.verdict
    assert "'drawn' is the same" not in found.verdict


def test_layers_without_a_weight_matrix_have_no_row_and_reused_ones_one_for_each_run():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(self.norm(self.layer(x)))
            return self.head(x)

    found = hw.compare({"a": Reused, "b": Reused}, inputs(), seeds=2)
    assert found.variants[0].measured.layers[-1] == "head"
    assert all(layer.startswith("layer") for layer in found.variants[0].measured.layers[:-1])


def test_theory_stands_beside_the_measurement_where_it_is_known():
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    found = hw.compare({"tanh": partial(mlp, 8, nn.Tanh, 64), "odd": partial(mlp, 8, nn.Softsign, 64)}, x, seeds=6)
    profile = found.profile["tanh"]
    measured = np.array([median.value for median in profile.gain_decades])
    assert np.abs(measured - np.array(profile.expected_decades)).max() < 0.1
    assert found.profile["odd"].expected_decades == ()


class _Scaled(nn.Module):
    """Two layers and a number that their output is multiplied by."""

    def __init__(self, scale):
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(6, 6), nn.Linear(6, 2), scale

    def forward(self, x):
        return self.last(self.first(x)) * self.scale


def test_a_first_seed_whose_gradient_is_not_finite_is_counted_as_any_other():
    def make():
        return _Scaled(math.nan if torch.initial_seed() == 5 else 1.0)

    for seeds in ([5, *range(8, 15)], [*range(8, 15), 5]):
        gain = hw.compare({"mlp": partial(mlp, 1), "nan": make}, inputs(), seeds=seeds).ratios["nan"].layers[0].gain
        assert (gain.num_pairs, gain.num_undefined) == (7, 1)


SAME = mlp(2)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": partial(mlp, 2)}, "expected two variants or more"),
        ({"a": partial(mlp, 2), "b": sys.exit}, "variant 'b', seed 0: the factory failed: SystemExit"),
        (
            {"a": partial(mlp, 2), "b": partial(_Scaled, math.nan)},
            "variant 'b': its gradient is not finite under any of the 2 seeds",
        ),
        ({"a": mlp(2), "b": mlp(2)}, "each seed needs a new one"),
        ({"a": partial(mlp, 2), "b": 3}, "expected variant 'b' to be a function"),
        (
            {"a": partial(mlp, 2), "b": lambda: 3},
            r"variant 'b', seed 0: expected the factory to make a torch.nn.Module, got int",
        ),
        ({"a": partial(mlp, 2), "b": _breaks}, r"variant 'b', seed 0: the factory failed: RuntimeError: no such layer"),
        ({"a": partial(mlp, 2), "b": lambda: SAME}, r"variant 'b', seed 0: .* the same object twice"),
        ({"a": partial(mlp, 2), "b": partial(mlp, 2, nn.Tanh, 7)}, "variant 'b', seed 0: the forward pass failed"),
        ({"a": partial(mlp, 2), "b": nn.Tanh}, "variant 'b', seed 0: the model Tanh has no parameters"),
        ({"a": partial(mlp, 2), " ": partial(mlp, 2)}, "expected each variant to have a name"),
        (["mlp depth=2", "mlp depth=2"], "two variants are the same network"),
        (["mlp depth=2", "mlp depht=2"], "there is no field 'depht'"),
        (["mlp depth=2", partial(mlp, 2)], "expected factories to have names"),
        ("mlp depth=2", "expected a mapping of names to variants"),
    ],
)
def test_variants_that_cannot_be_compared_are_refused_in_one_sentence(variants, message):
    with pytest.raises(hw.ProblemError, match=message) as caught:
        hw.compare(variants, inputs(), seeds=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "expected one seed or more"),
        ({"seeds": [1, 1]}, "expected each seed once"),
        ({"seeds": "12"}, "expected seeds to be how many"),
        ({"seeds": 2.5}, "expected seeds to be how many"),
        ({"seeds": [2**64]}, "expected seeds from -2.63 to 2.64 - 1"),
        ({"executor": "loky"}, "expected executor to be a concurrent.futures.Executor, got 'loky'"),
        ({"train": -1}, "expected train to be a whole number from 1"),
        ({"batch_size": 4}, "say for how many steps with train="),
        ({"train": 3, "batch_size": 0}, "expected batch_size to be a whole number from 1"),
        ({"train": 3, "held_out": inputs()}, "expected held_out to be a pair"),
        ({"train": 3}, "expected a loss to train with"),
        ({"train": 3, "optimizer": 0.1}, "expected optimizer to be a function"),
        ({"targets": inputs()}, "targets were given but no loss"),
    ],
)
def test_options_that_say_nothing_are_refused_in_one_sentence(options, message):
    with pytest.raises(hw.ProblemError, match=message):
        hw.compare({"a": partial(mlp, 1), "b": partial(mlp, 2)}, inputs(), **{"seeds": 2, **options})
