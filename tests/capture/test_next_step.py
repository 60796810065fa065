"""What is said of the optimiser's next step, against taking it."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headwater.capture import Problem, observe
from headwater.capture.exact_steps import exact_step
from headwater.recording import SignalKind, merge
from tests.capture.next_steps import EXACT, OPTIMIZERS, counts, data, loss, net, numbers, observed, step_once, trained
from tests.oracles.moments import assert_moments_match


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_steps", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_is_what_the_optimizer_then_does(name, num_steps, dtype):
    model, optimizer = trained(name, num_steps, dtype)
    recording = observed(model, optimizer, dtype)
    before = copy.deepcopy(model.state_dict())
    step_once(model, optimizer, dtype)
    updates = {signal.parameter: signal for signal in recording.select(SignalKind.UPDATE)}
    assert updates.keys() == before.keys()
    unchanged, with_gradient = counts(recording, "num_unchanged"), counts(recording, "num_with_gradient")
    for key, parameter in model.named_parameters():
        change = parameter.detach() - before[key]
        assert_moments_match(updates[key].stats, change, rtol=1e-6)
        moved = torch.ne(parameter.detach(), before[key])
        assert with_gradient[key] == (parameter.grad != 0).sum()
        assert unchanged[key] == ((parameter.grad != 0) & ~moved).sum()


@pytest.mark.parametrize("num_steps", [0, 1, 4])
@pytest.mark.parametrize("name", EXACT)
def test_the_exact_step_is_torchs_step_in_float64(name, num_steps):
    model, optimizer = trained(name, num_steps, torch.float64)
    inputs, targets = data(torch.float64)
    optimizer.zero_grad()
    loss(model(inputs), targets).backward()
    exact = [
        (
            p,
            p.detach().clone(),
            float(group["lr"]),
            exact_step(optimizer, group, optimizer.state[p], p.detach(), p.grad),
        )
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    optimizer.step()
    for parameter, old, rate, step in exact:
        torch.testing.assert_close(old - rate * step.direction, parameter.detach(), rtol=1e-9, atol=1e-12)
        assert step.growth >= 1.0


def test_the_decay_is_what_the_step_is_without_a_gradient():
    for name in ("SGD", "SGD with all", "AdamW", "two groups"):
        _, optimizer = trained(name, 0, torch.float64)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                old = parameter.detach().clone()
                parameter.grad = torch.full_like(parameter, 1e-30)
                step = exact_step(optimizer, group, {}, old, parameter.grad)
                parameter.grad = torch.zeros_like(parameter)
                rate = float(group["lr"])
                optimizer.step()
                torch.testing.assert_close(old - rate * step.decay, parameter.detach(), rtol=1e-12, atol=0)
                parameter.grad = None


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.4])
def test_momentum_lengthens_a_steady_step_by_the_growth_that_is_said(nesterov, dampening):
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    settings = {"momentum": 0.8, "nesterov": nesterov, "dampening": 0.0 if nesterov else dampening}
    optimizer = torch.optim.SGD([weight], 1.0, **settings)
    weight.grad = torch.ones_like(weight)
    first = exact_step(optimizer, optimizer.param_groups[0], {}, weight.detach(), weight.grad)
    lengths = []
    for _ in range(200):
        before = weight.detach().clone()
        optimizer.step()
        lengths.append(float(before - weight.detach()))
    assert lengths[0] == pytest.approx(float(first.direction))
    assert first.growth == pytest.approx(max(lengths[-1] / lengths[0], 1.0))
    late = exact_step(optimizer, optimizer.param_groups[0], optimizer.state[weight], weight.detach(), weight.grad)
    assert late.growth == 1.0


def test_rounding_begins_at_half_an_ulp():
    # Below one, numbers of float32 are 2**-24 apart, above it 2**-23; a tie goes to the even one, which is one.
    slopes = torch.tensor([2.0**-25, 1.01 * 2.0**-25, -(2.0**-24), -1.01 * 2.0**-24, 0.0])
    model = nn.Linear(5, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    recording = observe(Problem(model, slopes[None], loss=lambda y: y.sum(), optimizer=optimizer))
    assert numbers(recording, "num_with_gradient") == {"weight": [4.0]}
    assert numbers(recording, "num_unchanged") == {"weight": [2.0]}
    assert numbers(recording, "num_lost_to_rounding") == {"weight": [2.0]}


def test_half_an_ulp_of_bfloat16_is_two_to_the_minus_nine():
    slopes = torch.tensor([2.0**-9, 1.01 * 2.0**-9, -(2.0**-8), -1.02 * 2.0**-8]).bfloat16()
    model = nn.Linear(4, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    recording = observe(Problem(model, slopes[None], loss=lambda y: y.sum(), optimizer=optimizer))
    assert numbers(recording, "num_lost_to_rounding") == {"weight": [2.0]}


def test_weight_decay_does_not_hide_that_the_gradient_makes_no_difference():
    model = nn.Linear(4, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    recording = observe(Problem(model, torch.full((1, 4), 1e-12), loss=lambda y: y.sum(), optimizer=optimizer))
    assert numbers(recording, "num_unchanged") == {"weight": [0.0]}
    assert numbers(recording, "num_lost_to_rounding") == {"weight": [4.0]}


def test_what_epsilon_takes_is_counted_by_decades():
    # sqrt(v) / (sqrt(v) + eps) with eps = 1e-8: 0.99999, 1/2, 1/201, 1/2001, 5e-9, 1e-17
    slopes = torch.tensor([1e-3, 1e-8, 5e-11, 5e-12, 5e-17, 1e-25])
    model = nn.Linear(6, 1, bias=False)
    recording = observe(
        Problem(model, slopes[None], loss=lambda y: y.sum(), optimizer=torch.optim.Adam(model.parameters()))
    )
    expected = [2.0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1]
    assert numbers(recording, "num_with_gradient") == {"weight": expected}
    assert numbers(recording, "epsilon") == {"weight": [1e-8]}


@given(exponent=st.integers(-40, 10), momentum=st.sampled_from([0.0, 0.9]), seed=st.integers(0, 5))
def test_without_decay_what_rounding_loses_is_what_stays_as_it_is(exponent, momentum, seed):
    model = nn.Linear(64, 1, bias=False)
    slopes = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=momentum)
    recording = observe(Problem(model, slopes, loss=lambda y: y.sum(), optimizer=optimizer))
    assert numbers(recording, "num_lost_to_rounding") == numbers(recording, "num_unchanged")
    full = counts(recording, "num_lost_at_full_rate")["weight"]
    assert full <= counts(recording, "num_lost_to_rounding")["weight"]


def test_a_weight_of_zero_never_stalls():
    model = nn.Linear(8, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    recording = observe(Problem(model, 1e-12 * torch.ones(1, 8), loss=lambda y: y.sum(), optimizer=optimizer))
    assert counts(recording, "num_unchanged") == counts(recording, "num_lost_to_rounding") == {"weight": 0.0}


def test_the_step_is_that_of_the_loss_as_it_is_although_the_pass_runs_on_a_larger_one():
    model, inputs = net(), data()[0]
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    recording = observe(Problem(model, inputs, loss=lambda y: 1e-20 * y.square().sum(), optimizer=optimizer))
    assert recording.context.backward_scale_exponent > 0
    assert counts(recording, "num_unchanged") == counts(recording, "num_with_gradient")
    recording = observe(Problem(model, inputs, loss=lambda y: 1e-44 * y.square().sum(), optimizer=optimizer))
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    assert sum(counts(recording, "num_with_gradient").values()) < 0.8 * num_weights  # float32 loses the others
    gradients = [signal.stats for signal in recording.select(SignalKind.WEIGHT_GRADIENT)]
    assert sum(stats.numel - stats.zero_count for stats in gradients) == num_weights


def test_gradients_from_before_are_no_part_of_the_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    fresh = observed(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    assert observed(model, optimizer) == fresh
    assert all((parameter.grad == 100.0).all() for parameter in model.parameters())


def test_counts_add_up_where_recordings_are_merged():
    model = net()
    one = observed(model, torch.optim.SGD(model.parameters(), 1e-3))
    both = merge(one, one)
    for name, total in counts(one, "num_with_gradient").items():
        assert counts(both, "num_with_gradient")[name] == 2 * total
    assert counts(both, "learning_rate") == counts(one, "learning_rate")
    assert counts(both, "in_optimizer") == counts(one, "in_optimizer")


# --- unusual models -------------------------------------------------------------------------------------------------


def test_without_a_loss_only_who_is_in_the_optimizer_is_known():
    model = net()
    recording = observe(Problem(model, data()[0], optimizer=torch.optim.SGD(model[0].parameters(), 1.0)))
    assert recording.select(SignalKind.UPDATE) == []
    assert counts(recording, "in_optimizer") == {
        "0.weight": 1.0, "0.bias": 1.0, "2.weight": 0.0, "2.bias": 0.0, "4.weight": 0.0, "4.bias": 0.0,
    }  # fmt: skip


def test_parameters_that_are_not_the_models_are_counted_and_left_alone():
    model, other = net(), net()
    other[0].weight.grad = torch.ones_like(other[0].weight)
    before = copy.deepcopy(other.state_dict())
    recording = observed(model, torch.optim.SGD([*model.parameters(), *other.parameters()], 1.0))
    assert recording.series("num_foreign_parameters")[0].values.tolist() == [6.0]
    assert len(recording.select(SignalKind.UPDATE)) == 6
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    assert (other[0].weight.grad == 1.0).all()


def test_lazy_tied_sparse_frozen_and_complex_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 4, sparse=True)
            self.lazy = nn.LazyLinear(4)
            self.tied = self.lazy
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.phase = nn.Parameter(torch.ones(4, dtype=torch.complex64))

        def forward(self, x):
            y = self.tied(self.lazy(self.embedding(x)))
            return self.frozen(y) * (self.phase * (1 + 1j)).real

    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recording = observe(Problem(model, torch.tensor([1, 1, 3]), loss=lambda y: y.sum(), optimizer=optimizer))
    assert set(counts(recording, "in_optimizer").values()) == {1.0}
    assert counts(recording, "num_with_gradient") == {
        "embedding.weight": 8.0, "lazy.weight": 16.0, "lazy.bias": 4.0, "phase": 4.0,
    }  # fmt: skip
    assert "phase" not in counts(recording, "num_lost_to_rounding")
    assert recording.context.notes == ()


def test_a_rate_that_a_schedule_will_raise_is_known():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if not step else 1.0)
    recording = observed(model, optimizer)
    assert set(counts(recording, "learning_rate").values()) == {0.0}
    assert set(counts(recording, "full_learning_rate").values()) == {0.1}
    assert counts(recording, "num_unchanged") == counts(recording, "num_with_gradient")
    assert set(counts(recording, "num_lost_to_rounding").values()) == {0.0}
    assert set(counts(recording, "num_lost_at_full_rate").values()) == {0.0}
