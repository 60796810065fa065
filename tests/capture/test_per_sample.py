"""Gradients of single samples and of pairs: right beside a slow loop in float64, and without a trace."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwater import diagnose
from headwater.analysis import gradient_noise, total_noise
from headwater.analysis.likeness import likeness
from headwater.capture import Problem, observe, per_sample, slice_gradients
from headwater.capture.gradient_pairs import AT_8TH, AT_1024TH, OF_SAMPLES, REPEATED
from headwater.recording import merge
from headwater.theory.shattering import gradient_correlation, relu_correlation, shared_slope
from tests.capture.hostile_models import Lambda, batch, images, small_net
from tests.capture.snapshots import random_states
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def labels(size: int) -> Tensor:
    return torch.randint(0, 3, (size,), generator=torch.Generator().manual_seed(1))


def noise_of(problem: Problem, samples: int | None = 16) -> dict[str, Any]:
    found = gradient_noise(observe(problem, samples=samples))
    return {f"{part.module}.{part.parameter}": part for part in found}


def sample_gradients(model: nn.Module, loss: Any, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """One gradient per sample, each by a backward pass of its own, in float64: shape (samples, entries)."""
    model = copy.deepcopy(model).double()
    rows: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for x, y in zip(inputs.double(), targets, strict=True):
        model.zero_grad()
        loss(model(x[None]), y[None]).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            rows[name].append(parameter.grad.reshape(-1).clone())
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


def assert_is_what_the_rows_say(found: Any, rows: Tensor, length: int) -> None:
    """Signal and noise from all samples' gradients: |mean|² less its own variance, and the variance between slices."""
    slices = rows[: len(rows) // length * length].reshape(-1, length, rows.shape[1]).mean(1)
    number = len(slices)
    between = (slices - slices.mean(0)).square().sum() / (number - 1)  # of a slice's mean: tr(Sigma) / length
    signal = slices.mean(0).square().sum() - between / number
    assert found.signal == pytest.approx(float(signal), rel=1e-4, abs=1e-6 * float(between))
    assert found.noise == pytest.approx(float(between) * length, rel=1e-4)
    assert found.num_samples == number * length


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("size", "length"), [(8, 1), (64, 4), (31, 2)])
@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_signal_and_noise_are_those_of_a_loop_over_samples(reduction, size, length, way, monkeypatch):
    if way == "loop":
        monkeypatch.setattr(slice_gradients, "_MOST_HELD", 0)
    else:
        monkeypatch.setattr(slice_gradients, "_by_loop", lambda *_: pytest.fail("vmap was refused"))
    model, loss = network(), nn.CrossEntropyLoss(reduction=reduction)
    inputs, targets = gaussian(size, 5), labels(size)
    found = noise_of(Problem(model, inputs, targets, loss))
    rows = sample_gradients(model, loss, inputs, targets)
    assert found.keys() == rows.keys()
    for name, part in found.items():
        assert_is_what_the_rows_say(part, rows[name], length)


def test_the_estimate_is_unbiased_where_all_is_noise():
    inputs = gaussian(4096, 1)
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    signals = [
        noise_of(Problem(model, x, torch.zeros(16, 1), lambda y, _: y.sum()))[".weight"].signal
        for x in inputs.reshape(-1, 16, 1)
    ]
    error = torch.tensor(signals).std() / math.sqrt(len(signals))
    assert abs(sum(signals) / len(signals)) < 4 * error  # the mean of |mean|², biased, would be 1/16: 10 errors away
    assert error < 1 / 160


def test_recordings_of_two_batches_merge_into_signal_and_noise_of_both():
    model, loss = network(), nn.CrossEntropyLoss()
    x, y = gaussian(32, 5), labels(32)
    halves = [observe(Problem(model, x[part], y[part], loss), samples=16) for part in (slice(16), slice(16, 32))]
    merged = {part.parameter + part.module: part for part in gradient_noise(merge(*halves))}
    separate = [{part.parameter + part.module: part for part in gradient_noise(half)} for half in halves]
    for name, part in merged.items():
        assert part.signal == pytest.approx((separate[0][name].signal + separate[1][name].signal) / 2)
        assert part.noise == pytest.approx((separate[0][name].noise + separate[1][name].noise) / 2)
        assert part.num_samples == 32


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_signal_to_noise_does_not_depend_on_the_scale_of_the_loss(factor):
    model, loss = network(), nn.CrossEntropyLoss()
    x, y = gaussian(16, 5), labels(16)
    plain = noise_of(Problem(model, x, y, loss))
    scaled = noise_of(Problem(model, x, y, lambda output, target: factor * loss(output, target)))
    for name, part in plain.items():
        assert scaled[name].signal_to_noise == pytest.approx(part.signal_to_noise, rel=1e-3)
        assert scaled[name].noise == pytest.approx(factor**2 * part.noise, rel=1e-3)


def test_a_model_that_vmap_refuses_is_run_slice_by_slice():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x if x.sum().item() > 0.0 else -x)

    torch.manual_seed(0)
    model, loss, inputs, targets = Branches(), nn.CrossEntropyLoss(reduction="sum"), gaussian(8, 4), labels(8)
    found = noise_of(Problem(model, inputs, targets, loss))
    rows = sample_gradients(model, loss, inputs, targets)
    for name, part in found.items():
        assert_is_what_the_rows_say(part, rows[name], 1)


class Doubled(torch.autograd.Function):
    """A function that torch.func knows nothing of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2.0 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2.0 * gradient


HOSTILE = {
    "a custom function": (lambda: Lambda(lambda m, x: Doubled.apply(m[0](x)), nn.Linear(4, 3)), batch),
    "in-place": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), batch),
    "a graph that is cut": (broken.DetachedInForward, lambda: gaussian(8, 8)),
    "experts": (healthy.SparseExperts, lambda: gaussian(8, 8)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), lambda: gaussian(8, 4)),
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), images),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 3)), lambda: gaussian(8, 4)),
    "an LSTM": (lambda: Lambda(lambda m, x: m[0](x)[0], nn.LSTM(4, 3, batch_first=True)), lambda: gaussian(8, 6, 4)),
    "frozen": (lambda: nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 3)), lambda: gaussian(8, 4)),
    "one sample": (small_net, lambda: gaussian(1, 4)),
    "sparse": (lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 3)), lambda: torch.arange(8)),
    "scripted": (
        lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.trace(nn.Linear(4, 3), gaussian(8, 4))),
        lambda: gaussian(8, 4),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_nothing_of_a_hostile_model_is_changed_and_nothing_fails(name):
    make, inputs = HOSTILE[name]
    torch.manual_seed(0)
    model, x = make(), inputs()
    model.zero_grad()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    x_before, states = x.clone(), random_states()
    problem = Problem(model, x, loss=lambda output: output.square().mean())
    recording = observe(problem, samples=16)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert flags == [(module.training, len(module._forward_hooks)) for module in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(x, x_before)
    assert random_states() == states
    # Either the numbers are there, or why they are not.
    assert bool(recording.series("gradient_noise_sums")) != bool(recording.series(per_sample.NO_SLICES))
    assert bool(recording.series(OF_SAMPLES)) != bool(recording.series(per_sample.NO_PAIRS))
    assert all(one.item for what in (per_sample.NO_SLICES, per_sample.NO_PAIRS) for one in recording.series(what))


def test_a_model_that_fails_in_its_second_run_is_put_back_and_told():
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm, self.runs = nn.Linear(4, 3), nn.BatchNorm1d(3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            if len(x) < 8:
                self.norm(self.layer(x))
                raise RuntimeError("not on my batch")
            return self.norm(self.layer(x))

    model = Once()
    recording = observe(Problem(model, gaussian(8, 4), loss=lambda y: y.square().sum()), samples=4)
    assert [one.item for one in recording.series(per_sample.NO_SLICES)] == ["RuntimeError: not on my batch"]
    assert model.runs == 0
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("inputs", "loss", "reason"),
    [
        (lambda: gaussian(1, 4), lambda y: y.square().mean(), "one sample"),
        (lambda: gaussian(8, 4), None, "no loss"),
        (
            lambda: gaussian(8, 4),
            lambda y: (y @ y.mT).softmax(-1).diagonal().log().mean(),
            "do not make up the batch's",
        ),
    ],
)
def test_where_samples_cannot_be_told_apart_it_is_said_why(inputs, loss, reason):
    recording = observe(Problem(small_net(), inputs(), loss=loss), samples=16)
    (refusal,) = recording.series(per_sample.NO_SLICES)
    assert reason in refusal.item


def test_token_ids_are_moved_at_their_embeddings_and_a_loss_of_the_output_is_cut_with_the_inputs():
    torch.manual_seed(0)
    model_type = next(one for one in MODEL_TYPES if one.model_class == "GPT2LMHeadModel")
    recording = observe(Problem(model_type.build().eval(), model_type.inputs()), samples=16)
    near, far = likeness(recording, AT_1024TH), likeness(recording, AT_8TH)
    assert near is not None
    assert far is not None
    assert near.module == "transformer.wte"
    assert near.mean > far.mean > 0.9
    total = total_noise(gradient_noise(recording))
    assert total is not None
    assert total.num_samples == 2


# --- pairs ----------------------------------------------------------------------------------------------------------


def he_network(num_layers: int, width: int = 512) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(width, width, bias=False), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    return nn.Sequential(*layers, nn.Linear(width, 1))


@pytest.mark.parametrize("num_layers", [1, 3, 10])
def test_wide_he_networks_have_the_correlations_of_theory(num_layers):
    recording = observe(Problem(he_network(num_layers), gaussian(16, 512)), samples=16)
    for name in (AT_8TH, OF_SAMPLES, AT_1024TH):
        found = likeness(recording, name)
        assert found is not None
        expected = gradient_correlation(found.points, num_layers)
        assert found.mean == pytest.approx(expected, abs=0.05 + 4 * found.error)
    unrelated = likeness(recording, OF_SAMPLES)
    assert unrelated is not None
    assert unrelated.points == pytest.approx(0.0, abs=0.03)


def test_points_are_compared_where_their_gradients_are():
    """Most samples are saturated and have no gradient: those without one must not count among the points."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    recording = observe(Problem(model, 1e3 * gaussian(16, 8)), samples=16)
    for name in (AT_8TH, OF_SAMPLES, AT_1024TH):
        found = likeness(recording, name)
        assert found is None or -1.0 <= found.points <= 1.0
    assert any(likeness(recording, name) is not None for name in (AT_8TH, AT_1024TH))


@pytest.mark.filterwarnings("error")
def test_what_vmap_cannot_batch_is_no_news_to_the_user(recwarn):
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.rnn = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)

        def forward(self, x):
            return self.rnn(self.body(x))[0][:, -1]

    problem = Problem(Sums(), torch.randn(8, 5, 4), loss=lambda output: output.square().mean())
    series = observe(problem, samples=8).series("gradient_noise_sums")
    assert series
    assert [str(warning.message) for warning in recwarn] == []


def test_what_a_users_hook_keeps_can_be_read_afterwards():
    model, kept = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), []
    model[0].register_forward_hook(lambda module, args, output: kept.append(output))
    assert diagnose(model, torch.randn(8, 4), loss=lambda output: output.square().mean()).noise
    assert len(kept) > 1
    assert all(math.isfinite(float(output.detach().sum())) for output in kept)


def test_correlations_are_those_of_gradients_taken_one_by_one():
    model, x = he_network(2, 16), gaussian(4, 16)
    recording = observe(Problem(model, x), samples=4, seed=3)
    cotangent = torch.randn(1, generator=torch.Generator().manual_seed(3)).double()
    rest = copy.deepcopy(model[1:]).double()
    points = model[0](x).detach().double()

    def gradient(point: Tensor) -> Tensor:
        point = point.clone().requires_grad_()
        return torch.autograd.grad(rest(point[None])[0], point, cotangent)[0]

    here = [gradient(point) for point in points]
    near = [gradient(points[i] + (points[i - 1] - points[i]) / 8.0) for i in range(4)]
    found = likeness(recording, AT_8TH)
    assert found is not None
    expected = sum(float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(here, near, strict=True)) / 4
    assert found.mean == pytest.approx(expected, abs=1e-5)


def test_dropout_leaves_between_two_draws_what_theory_says():
    width, rate = 512, 0.4
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Dropout(rate), nn.Linear(width, width), nn.Dropout(rate))
    model.append(nn.Linear(width, 1))
    found = likeness(observe(Problem(model, gaussian(16, width)), samples=16), REPEATED)
    assert found is not None
    assert found.mean == pytest.approx((1.0 - rate) ** 2, abs=0.04)
    assert likeness(observe(Problem(model.eval(), gaussian(16, width)), samples=16), REPEATED) is None


def test_batch_statistics_do_not_take_the_mean_gradient_away():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.zeros_(model[0].bias)
    found = likeness(observe(Problem(model, gaussian(64, 32)), samples=16), AT_8TH)
    assert found is not None
    assert found.num_pairs == 64  # all of the batch, whose statistics they share
    assert found.mean == pytest.approx(shared_slope(found.points), abs=0.1)
    assert relu_correlation(found.points) > 0.9


# --- how many -------------------------------------------------------------------------------------------------------


def test_the_cheap_mode_looks_at_no_samples_unless_it_is_told_to():
    problem: Any = (network(), gaussian(8, 5), labels(8))
    loss = nn.CrossEntropyLoss()
    assert diagnose(*problem, loss=loss, lines=False).noise == ()
    assert diagnose(*problem, loss=loss, samples=0).noise == ()
    assert {part.num_slices for part in diagnose(*problem, loss=loss, lines=False, samples=4).noise} == {4}
    assert {part.num_slices for part in diagnose(*problem, loss=loss).noise} == {8}
    alone = observe(Problem(*problem, loss), samples=1).series(per_sample.NO_SLICES)
    assert [one.item for one in alone] == ["one sample alone, as samples=1 asks for, has no other to be compared with"]
    with pytest.raises(ValueError, match="at least 0"):
        diagnose(*problem, loss=loss, samples=-1)
