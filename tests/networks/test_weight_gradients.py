"""The notebook's ten numbers, and what print_gradients promises beside them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from headwater.networks import DeepNeuralNetwork, gradient_means, print_gradients

SIZES = [3, 3, 3, 3, 3, 1]
X = torch.tensor([[1.0, 0.0, -1.0]])
NOTEBOOK = {
    False: [
        0.00020174118981231004,
        0.00012011769285891205,
        0.0007152436301112175,
        0.00139885104727,
        0.005049602594226599,
    ],
    True: [0.22186800837516785, 0.20709273219108582, 0.3292388319969177, 0.2667772173881531, 1.3268063068389893],
}


def notebook_model(*, use_shortcut: bool) -> DeepNeuralNetwork:
    torch.manual_seed(123)
    return DeepNeuralNetwork(SIZES, use_shortcut)


def slow_gradient_means(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    model.zero_grad()
    ((model(x) - target) ** 2).mean().backward()
    return {n: (p.grad.abs().sum() / p.numel()).item() for n, p in model.named_parameters() if "weight" in n}


@pytest.mark.parametrize("use_shortcut", [False, True])
def test_the_notebooks_ten_numbers(use_shortcut):
    means = gradient_means(notebook_model(use_shortcut=use_shortcut), X)
    assert list(means) == [f"layers.{layer}.0.weight" for layer in range(5)]
    assert list(means.values()) == pytest.approx(NOTEBOOK[use_shortcut], rel=1e-6, abs=0.0)


@pytest.mark.parametrize("use_shortcut", [False, True])
def test_lines_are_printed_in_the_notebooks_format(use_shortcut, capsys):
    print_gradients(notebook_model(use_shortcut=use_shortcut), X)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for layer, (line, expected) in enumerate(zip(lines, NOTEBOOK[use_shortcut], strict=True)):
        name, number = line.split(" has gradient mean of ")
        assert name == f"layers.{layer}.0.weight"
        assert float(number) == pytest.approx(expected, rel=1e-6, abs=0.0)


def test_a_second_call_prints_the_same(capsys):
    model = notebook_model(use_shortcut=True)
    print_gradients(model, X)
    first = capsys.readouterr().out
    print_gradients(model, X)
    assert capsys.readouterr().out == first


def test_print_gradients_leaves_this_passs_gradients_which_an_optimiser_can_use(capsys):
    model, reference = notebook_model(use_shortcut=True), notebook_model(use_shortcut=True)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    print_gradients(model, X)
    (reference(X) ** 2).mean().backward()
    for ours, plain in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.grad, plain.grad)
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # writes in place


def test_gradient_means_leaves_existing_gradients_alone():
    model = notebook_model(use_shortcut=False)
    model.layers[0][0].weight.grad = torch.full((3, 3), 5.0)
    gradient_means(model, X)
    assert torch.equal(model.layers[0][0].weight.grad, torch.full((3, 3), 5.0))
    assert model.layers[1][0].weight.grad is None


@pytest.mark.parametrize("depth", [1, 2, 7, 40])
def test_any_depth_agrees_with_plain_autograd_in_float64(depth):
    torch.manual_seed(0)
    model = DeepNeuralNetwork([4] * depth + [2], use_shortcut=True).double()
    x, target = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    assert gradient_means(model, x, target=target) == pytest.approx(slow_gradient_means(model, x, target), rel=1e-12)


def test_any_loss_and_target_may_be_given():
    model = notebook_model(use_shortcut=False)
    tripled = gradient_means(model, X, loss=lambda output, target: 3 * nn.functional.mse_loss(output, target))
    assert list(tripled.values()) == pytest.approx([3 * mean for mean in NOTEBOOK[False]], rel=1e-5)
    classifier = nn.Linear(3, 4)
    means = gradient_means(classifier, X, target=torch.tensor([2]), loss=nn.CrossEntropyLoss())
    assert means["weight"] > 0


def test_a_weight_that_no_gradient_reaches_is_nan_and_said_in_words(capsys):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 3)
            self.frozen.requires_grad_(requires_grad=False)

        def forward(self, x):
            return self.used(self.frozen(x))

    means = gradient_means(Partly(), X)
    assert math.isnan(means["unused.weight"])
    assert math.isnan(means["frozen.weight"])
    assert means["used.weight"] > 0
    print_gradients(Partly(), X)
    assert "unused.weight has no gradient" in capsys.readouterr().out.splitlines()


LINEAR = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (LINEAR, {"target": torch.zeros(1, 1)}, r"expected a target of the output's shape \(1, 2\), got \(1, 1\)"),
        (LINEAR, {"loss": lambda output, _: output}, r"to return one number as a tensor, got shape \(1, 2\)"),
        (LINEAR, {"loss": lambda *_: 1.0}, "to return one number as a tensor, got a float"),
        (LINEAR, {"loss": lambda output, _: output.detach().sum()}, "does not depend on any trainable parameter"),
        (nn.GELU(), {}, "expected a model with trainable parameters, GELU has none"),
        (nn.LSTM(3, 2), {}, "expected a model that returns one tensor, got a tuple"),
        (DeepNeuralNetwork([4, 1], use_shortcut=False), {}, r"expected an input of shape \(\.\.\., 4\)"),
    ],
)
def test_what_cannot_be_measured_gets_one_sentence(model, options, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        print_gradients(model, X, **options)
    assert "\n" not in str(caught.value)


def test_without_autograd_the_error_says_what_to_do():
    with torch.no_grad(), pytest.raises(ValueError, match=r"call outside torch\.no_grad\(\)"):
        gradient_means(nn.Linear(3, 1), X)
