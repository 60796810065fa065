from __future__ import annotations

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.cli.demo import digits
from headwater.cli.demo.digits import FAILING, REPAIRED, VARIANTS


@pytest.fixture(scope="module")
def data():
    return digits.load_digits()


@pytest.fixture
def small_budget(monkeypatch):
    monkeypatch.setattr(digits, "SEEDS", (0,))
    monkeypatch.setattr(digits, "LEARNING_RATES", (0.003,))


def test_a_quarter_of_the_digits_is_kept_for_the_test_and_every_digit_is_in_both_parts(data):
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert len(data.test_labels) / 1797 == pytest.approx(0.25, abs=1e-3)
    for labels in (data.train_labels, data.test_labels):
        assert set(labels.tolist()) == set(range(10))
    seen = {image.numpy().tobytes() for image in data.train_images}
    assert not any(image.numpy().tobytes() in seen for image in data.test_images)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_is_as_deep_and_as_wide(variant):
    model = digits.build(variant, seed=0)
    shapes = [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(64, 64)] * 19 + [(10, 64)]


def test_a_seed_gives_the_same_network_and_the_same_accuracy(data, small_budget, monkeypatch):
    monkeypatch.setattr(digits, "NUM_EPOCHS", 1)
    first, again = (digits.held_out_accuracies(REPAIRED, data, lambda: None) for _ in range(2))
    assert first == again


def test_the_failing_network_stays_at_guessing_and_the_repaired_one_learns(data, small_budget):
    (failing,) = digits.held_out_accuracies(FAILING, data, lambda: None)
    (repaired,) = digits.held_out_accuracies(REPAIRED, data, lambda: None)
    assert failing < 0.15
    assert repaired > 0.93


def test_each_training_is_counted(data, small_budget, monkeypatch):
    monkeypatch.setattr(digits, "NUM_EPOCHS", 0)
    monkeypatch.setattr(digits, "SEEDS", (0, 1))
    trained = []
    assert len(digits.held_out_accuracies(FAILING, data, lambda: trained.append(1))) == 2
    assert len(trained) == digits.num_trainings() == 2


def test_only_the_failing_network_is_called_vanishing(data):
    codes = {}
    for variant in (FAILING, REPAIRED):
        model = digits.build(variant, seed=0)
        diagnosis = hw.diagnose(model, *digits.first_batch(data), loss=nn.CrossEntropyLoss())
        codes[variant] = [finding.code for finding in diagnosis.findings]
    assert codes == {FAILING: ["HW101", "HW204"], REPAIRED: []}


def test_the_logits_have_one_column_per_digit():
    assert digits.build(REPAIRED, seed=0)(torch.zeros(3, 64)).shape == (3, 10)
