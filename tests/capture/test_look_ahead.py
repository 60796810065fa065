from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.capture.look_ahead import NUM_STEPS_TO_GRADIENT

BATCH = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Counts its passes, draws random numbers and keeps statistics."""

    def __init__(self, *, is_zero):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, 1)
        self.passes = []
        if is_zero:
            nn.init.zeros_(self.head.weight)

    def forward(self, x):
        PASSES.append(1)
        self.passes.append(1)
        return self.head(self.body(x))


PASSES: list[int] = []


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    PASSES.clear()


def square(output):
    return (output - 1.0).square().mean()


def steps_of(recording):
    return {f"{s.module}.{s.item}": s.values.tolist() for s in recording.series(NUM_STEPS_TO_GRADIENT)}


@pytest.mark.parametrize("loss", [square, None])
def test_a_zero_layer_lets_the_gradient_through_after_one_step(loss):
    found = steps_of(observe(Problem(Counting(is_zero=True), BATCH, loss=loss)))
    assert set(found) == {f"body.{n}.{item}" for n in (0, 1, 3) for item in ("weight", "bias")}
    assert all(steps == [1.0] for steps in found.values())


def test_a_model_without_zero_gradients_runs_once():
    recording = observe(Problem(Counting(is_zero=False), BATCH, loss=square))
    assert len(PASSES) == 1
    assert steps_of(recording) == {}


def test_a_parameter_without_elements_does_not_keep_the_others_from_being_looked_at():
    class WithNothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.nothing = nn.Linear(6, 6), nn.Linear(6, 1), nn.Parameter(torch.empty(0, 6))
            nn.init.zeros_(self.head.weight)

        def forward(self, x):
            return self.head(torch.cat([self.body(x), self.nothing]))

    recording = observe(Problem(WithNothing(), BATCH, loss=square))
    assert steps_of(recording) == {"body.weight": [1.0], "body.bias": [1.0]}
    assert recording.context.notes == ()


def test_sparse_gradients_are_looked_at_too():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body, self.head = nn.Embedding(5, 6, sparse=True), nn.Linear(6, 6), nn.Linear(6, 1)
            self.start = nn.Parameter(torch.zeros(6))
            nn.init.zeros_(self.body.weight)

        def forward(self, tokens):
            return self.head(self.body(self.embedding(tokens)) + self.start)

    recording = observe(Problem(Tokens(), torch.arange(5), loss=lambda output: output.square().mean()))
    found = {(one.module, one.item): one.values.tolist() for one in recording.series(NUM_STEPS_TO_GRADIENT)}
    assert found == {("embedding", "weight"): [1.0]}


def test_a_zero_behind_another_needs_two_steps():
    layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    nn.init.zeros_(layers[1].weight)
    nn.init.zeros_(layers[2].weight)
    nn.init.ones_(layers[1].bias)  # or else the last layer would read zeros, and nothing would ever move
    found = steps_of(observe(Problem(layers, BATCH, loss=square)))
    assert found == {"0.weight": [2.0], "0.bias": [2.0], "1.weight": [1.0], "1.bias": [1.0]}


def test_two_layers_of_zeros_do_not_end():
    layers = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    for layer in layers[2:]:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    found = steps_of(observe(Problem(layers, BATCH, loss=square)))
    assert found["2.weight"] == found["4.weight"] == [math.inf]


def test_what_plain_autograd_finds_after_plain_steps_is_found():
    """The oracle: the same two steps with SGD at a small rate, by hand."""
    make = lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 1))  # noqa: E731
    for zeros in ((1,), (3,), (1, 3), (0, 1), (0, 1, 3)):
        torch.manual_seed(sum(zeros))
        model, twin = make(), make()
        twin.load_state_dict(model.state_dict())
        with torch.no_grad():
            for net in (model, twin):
                for index in zeros:
                    net[index].weight.zero_()
                net[1].bias.fill_(0.5)
        found = steps_of(observe(Problem(model, BATCH, loss=square)))
        expected = {}
        for step in range(3):
            twin.zero_grad()
            square(twin(BATCH)).backward()
            for name, parameter in twin.named_parameters():
                if not parameter.grad.any():
                    expected.setdefault(name, [math.inf])
                elif expected.get(name) == [math.inf]:
                    expected[name] = [float(step)]
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.sub_(parameter.grad, alpha=1e-3)
        assert found == expected


def test_what_the_optimiser_does_not_hold_does_not_move():
    model = Counting(is_zero=True)
    body = torch.optim.SGD(model.body.parameters(), 0.1)
    whole = torch.optim.SGD(model.parameters(), 0.0)  # a warm-up begins with a rate of zero: the zero ends all the same
    assert set(map(tuple, steps_of(observe(Problem(model, BATCH, loss=square, optimizer=body))).values())) == {
        (math.inf,)
    }
    assert set(map(tuple, steps_of(observe(Problem(model, BATCH, loss=square, optimizer=whole))).values())) == {(1.0,)}


@pytest.mark.parametrize("fails", [False, True])
def test_it_leaves_no_trace(fails):
    model = Counting(is_zero=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    square(model(BATCH)).backward()
    optimizer.step()
    with torch.no_grad():
        model.head.weight.zero_()
    model.passes[:] = [1]
    PASSES[:] = [1]
    graph = square(model.head(model.body[0](BATCH)))  # of a user who goes on with it
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {k: (v.detach().clone(), v._version, v.data_ptr(), v.grad) for k, v in tensors.items()}
    gradients = {k: p.grad.clone() for k, p in model.named_parameters()}
    state = {k: {n: t.clone() for n, t in s.items()} for k, s in optimizer.state.items()}
    random_states = torch.get_rng_state(), np.random.get_state()[1].copy()
    handle = model.register_forward_pre_hook(_raise_later) if fails else None
    recording = observe(Problem(model, BATCH, loss=square, optimizer=optimizer))
    if handle is not None:
        handle.remove()
    assert bool(steps_of(recording)) is not fails
    assert any("was not observed" in note for note in recording.context.notes) is fails
    for name, (values, version, address, grad) in before.items():
        now = tensors[name]
        assert torch.equal(now, values)
        assert (now.data_ptr(), now.grad) == (address, grad) if grad is None else now.grad is grad
        if isinstance(now, nn.Parameter):
            assert now._version == version
            assert torch.equal(now.grad, gradients[name])
    assert all(torch.equal(t, state[k][n]) for k, s in optimizer.state.items() for n, t in s.items())
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert np.array_equal(np.random.get_state()[1], random_states[1])
    assert model.passes == [1]
    assert dict(model.named_parameters())["head.weight"] is tensors["head.weight"]
    graph.backward()


def _raise_later(module, args):
    if len(PASSES) >= 3:  # the user's own, the recorded one, and one more
        raise RuntimeError("only so often")


def test_the_passes_draw_the_numbers_of_the_recorded_one():
    """A path that is dropped in this pass is dropped in the look ahead as well: nothing is said to have come back by chance."""

    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            x = self.stem(x)
            return x + self.branch(x) * (torch.rand(()) < 0.5)

    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = steps_of(observe(Problem(Sometimes(), BATCH, loss=square)))
        seen.add(tuple(found))
        assert all(steps == [math.inf] for steps in found.values())
    assert seen == {(), ("branch.weight", "branch.bias")}


def test_a_model_of_doubles_is_looked_at_too():
    doubles = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1)).double()
    nn.init.zeros_(doubles[1].weight)
    assert steps_of(observe(Problem(doubles, BATCH.double(), loss=square)))["0.weight"] == [1.0]


def test_a_lazy_model_is_left_alone():
    lazy = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 1))
    nn.init.zeros_(lazy[1].weight)
    recording = observe(Problem(lazy, BATCH, loss=square))
    assert steps_of(recording) == {}
    assert not any("was not observed" in note for note in recording.context.notes)


def test_a_loss_that_is_scaled_for_its_small_slope_is_scaled_again():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
    nn.init.zeros_(model[1].weight)
    recording = observe(Problem(model, BATCH, loss=lambda y: square(y) * 1e-36))
    assert steps_of(recording)["0.weight"] == [1.0]


def test_one_of_several_ranks_does_not_run_alone(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    recording = observe(Problem(Counting(is_zero=True), BATCH, loss=square))
    assert len(PASSES) == 1
    assert steps_of(recording) == {}
