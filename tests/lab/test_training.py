"""The oracle is a training loop written out."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import headwater as hw
from headwater.lab.learning_curve import LearningCurve
from headwater.lab.training import Batch, Training, accuracy, trained
from tests.lab.networks import classes, inputs, mlp

SGD = partial(torch.optim.SGD, lr=0.5)


@pytest.fixture(autouse=True)
def _random_states_preserved():
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_curve_is_that_of_a_loop_written_out():
    model = mlp(2)
    copy = mlp(2)
    copy.load_state_dict(model.state_dict())
    curve = trained(model, Batch(inputs(), classes()), nn.CrossEntropyLoss(), Training(5, SGD), seed=0)
    losses, optimizer = [], SGD(copy.parameters())
    for _ in range(6):
        loss = nn.functional.cross_entropy(copy(inputs()), classes())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert curve.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert curve.loss[0].tolist() == losses


class _Listening(nn.Module):
    """Notes what it reads while it is trained."""

    def __init__(self, read):
        super().__init__()
        self.layer, self.read = nn.Linear(6, 2), read

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.read.append(x[:, 0].tolist())
        return self.layer(x)


def test_every_variant_gets_the_same_batches_and_each_seed_another_order():
    read = {"one": [], "other": []}
    variants = {name: partial(_Listening, batches) for name, batches in read.items()}
    hw.compare(variants, inputs(8), classes(8), loss=nn.CrossEntropyLoss(), seeds=2, train=4, batch_size=4)
    batches = {name: [batch for batch in seen if len(batch) == 4] for name, seen in read.items()}
    assert batches["one"] == batches["other"]
    assert len(batches["one"]) == 2 * 4
    first_epoch = batches["one"][0] + batches["one"][1]
    assert sorted(first_epoch) == sorted(inputs(8)[:, 0].tolist())
    assert batches["one"][:4] != batches["one"][4:]


def test_a_network_that_diverges_is_stopped_counted_and_said():
    def explosive():
        return partial(torch.optim.SGD, lr=1e25)

    found = hw.compare(
        {"tanh": partial(mlp, 1), "relu": partial(mlp, 3, nn.ReLU)},
        100.0 * inputs(),
        inputs(8, 2),
        loss=nn.MSELoss(),
        seeds=6,
        train=10,
        optimizer=explosive(),
    )
    curve = found.curves["relu"]
    assert curve.num_diverged == 6
    assert (curve.diverged_at > 0).all()
    assert np.isnan(curve.loss[:, -1]).all()
    assert curve.medians("loss")[-1].value == math.inf
    assert "'relu' diverged under 6 of 6 seeds (a loss that is not finite)." in found.verdict
    assert "6 of 6" in str(found)


def test_medians_do_not_leave_out_what_diverged():
    steps, diverged_at = np.array([0, 5]), np.array([-1, -1, -1, 3, 3, 3, 3])
    loss = np.array([[1.0, 0.1]] * 3 + [[1.0, np.nan]] * 4)
    curve = LearningCurve(steps, loss, 1.0 - loss, *[np.full_like(loss, np.nan)] * 2, diverged_at=diverged_at)
    assert [median.value for median in curve.medians("loss")] == [1.0, math.inf]
    assert curve.medians("accuracy")[-1].value == 0.0


def test_a_loss_that_refuses_nan_does_not_end_the_comparison():
    def picky(output, targets):
        if not output.isfinite().all():
            raise ValueError("expected finite numbers")
        return nn.functional.mse_loss(output, targets)

    training = Training(5, partial(torch.optim.SGD, lr=1e30))
    curve = trained(mlp(2, nn.ReLU), Batch(inputs(), inputs(8, 2)), picky, training, seed=0)
    assert curve.num_diverged == 1


def test_held_out_data_are_tested_on_and_never_trained_on():
    held_out = (inputs(4) + 1.0, classes(4))
    with_them, without = (
        trained(mlp_of_seed(3), Batch(inputs(), classes()), nn.CrossEntropyLoss(), Training(4, SGD, None, data), seed=0)
        for data in (Batch(*held_out), None)
    )
    assert np.array_equal(with_them.loss, without.loss)
    assert with_them.measure == "held_out_accuracy"
    assert without.measure == "accuracy"
    assert np.isnan(without.held_out_loss).all()


def mlp_of_seed(seed):
    torch.manual_seed(seed)
    return mlp(2)


def test_looking_at_a_network_changes_neither_its_statistics_nor_its_modes():
    def network():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2))
        model[2].eval()  # a mode of the user's own
        return model

    often, once = network(), network()
    data = Batch(inputs(), classes())
    trained(often, data, nn.CrossEntropyLoss(), Training(6, SGD), seed=0)
    # The same steps by hand, without any look in between.
    torch.manual_seed(0)
    optimizer = SGD(once.parameters())
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(once(data.inputs), data.targets).backward()
        optimizer.step()
    assert all(
        torch.equal(one, other)
        for one, other in zip(often.state_dict().values(), once.state_dict().values(), strict=True)
    )
    assert [module.training for module in often.modules()] == [module.training for module in once.modules()]


def test_checkpoints_are_at_most_twenty_one_with_both_ends():
    steps = Training(1000, SGD).checkpoints
    assert (steps[0], steps[-1], len(steps)) == (0, 1000, 21)
    assert Training(1, SGD).checkpoints.tolist() == [0, 1]


def test_accuracy_is_for_classes_in_the_last_or_the_second_dimension():
    logits = torch.zeros(2, 3, 5)
    logits[..., 4] = 1.0
    assert accuracy(logits, torch.full((2, 3), 4)) == 1.0  # a language model: (batch, positions, classes)
    assert accuracy(logits.movedim(-1, 1), torch.full((2, 3), 4)) == 1.0  # pictures: (batch, classes, ...)
    assert math.isnan(accuracy(logits, torch.zeros(2, 3)))
    assert math.isnan(accuracy(logits, None))
    assert math.isnan(accuracy((logits,), torch.zeros(2, 3, dtype=torch.long)))


def test_a_budget_says_what_it_was():
    found = hw.compare(
        {"a": partial(mlp, 1), "b": partial(mlp, 2)},
        inputs(),
        classes(),
        loss=nn.CrossEntropyLoss(),
        seeds=2,
        train=3,
        optimizer=SGD,
    )
    assert found.training.optimizer == "SGD, learning rate 0.5"
    assert "After 3 steps of SGD, learning rate 0.5 the accuracy is " in found.verdict


def test_an_optimiser_that_picks_its_parameters_is_made_of_the_network_s_own():
    def last_layer_slower(parameters):
        *first, weight, bias = parameters
        return torch.optim.SGD([{"params": first}, {"params": [weight, bias], "lr": 0.01}], lr=0.1)

    found = hw.compare(
        {"a": partial(mlp, 1), "b": partial(mlp, 2)},
        inputs(),
        classes(),
        loss=nn.CrossEntropyLoss(),
        seeds=1,
        train=1,
        optimizer=last_layer_slower,
    )
    assert found.training.optimizer == "SGD, learning rate 0.1 and 0.01"


def test_a_step_that_fails_names_variant_and_seed():
    class NotAnOptimizer:
        def __init__(self, parameters):
            pass

    with pytest.raises(
        hw.ProblemError, match=r"variant 'a', seed 0: expected optimizer to make a torch\.optim\.Optimizer"
    ):
        hw.compare(
            {"a": partial(mlp, 1), "b": partial(mlp, 2)},
            inputs(),
            classes(),
            loss=nn.CrossEntropyLoss(),
            train=1,
            optimizer=NotAnOptimizer,
        )
