"""Real data: 20-layer networks on scikit-learn's handwritten digits, trained the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

NUM_LAYERS = 20
WIDTH = 64  # pixels of a digit, and units of every hidden layer, so that a shortcut fits around each
NUM_CLASSES = 10
NUM_EPOCHS = 10
BATCH_SIZE = 128
LEARNING_RATES = (0.01, 0.003, 0.001)
SEEDS = (0, 1, 2)


class Digits(NamedTuple):
    """The data: shapes (samples, 64) and (samples,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to build the network."""

    name: str
    activation: type[nn.Module]
    use_shortcut: bool = False
    use_xavier: bool = False


VARIANTS = (
    Variant("sigmoid", nn.Sigmoid),
    Variant("sigmoid + shortcuts", nn.Sigmoid, use_shortcut=True),
    Variant("tanh + Xavier", nn.Tanh, use_xavier=True),
    Variant("tanh + Xavier + shortcuts", nn.Tanh, use_shortcut=True, use_xavier=True),
)
FAILING, REPAIRED = VARIANTS[0], VARIANTS[-1]


class DigitsNetwork(nn.Module):
    """19 hidden layers of 64 units and a linear one of 10, as a variant says."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.use_shortcut = variant.use_shortcut
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), variant.activation()) for _ in range(NUM_LAYERS - 1)
        )
        self.head = nn.Linear(WIDTH, NUM_CLASSES)
        if variant.use_xavier:
            self.apply(_init_xavier)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (samples, 10)."""
        for layer in self.layers:
            x = x + layer(x) if self.use_shortcut else layer(x)
        return self.head(x)


def _init_xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def build(variant: Variant, seed: int) -> DigitsNetwork:
    """The network of a variant, freshly initialised under a seed.

    >>> build(REPAIRED, seed=0)(torch.zeros(2, WIDTH)).shape
    torch.Size([2, 10])
    """
    torch.manual_seed(seed)
    return DigitsNetwork(variant)


def load_digits() -> Digits:
    """The 1,797 digits, split by a fixed seed: three quarters to train on, one to test on.

    >>> [len(labels) for labels in (load_digits().train_labels, load_digits().test_labels)]
    [1347, 450]
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    parts = train_test_split(images / 16.0, labels, test_size=0.25, random_state=0, stratify=labels)
    train_images, test_images = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train_labels, test_labels = (torch.tensor(part) for part in parts[2:])
    return Digits(train_images, train_labels, test_images, test_labels)


def first_batch(digits: Digits) -> tuple[Tensor, Tensor]:
    """The batch that the diagnosis looks at.

    >>> [tuple(part.shape) for part in first_batch(load_digits())]
    [(128, 64), (128,)]
    """
    return digits.train_images[:BATCH_SIZE], digits.train_labels[:BATCH_SIZE]


def num_trainings() -> int:
    """How often `held_out_accuracies` trains a network: once per seed and learning rate.

    >>> num_trainings()
    9
    """
    return len(SEEDS) * len(LEARNING_RATES)


def held_out_accuracies(variant: Variant, digits: Digits, on_trained: Callable[[], object]) -> list[float]:
    """Test accuracy after training, one per seed.

    Every variant gets the same budget: each learning rate for the same number of Adam steps. The learning rate with
    the best accuracy on the training data is kept; the test data choose nothing.
    """
    return [max(_trainings(variant, digits, seed, on_trained))[1] for seed in SEEDS]


def _trainings(
    variant: Variant, digits: Digits, seed: int, on_trained: Callable[[], object]
) -> Iterator[tuple[float, float]]:
    for learning_rate in LEARNING_RATES:
        model = build(variant, seed)
        _train(model, digits, learning_rate)
        on_trained()
        yield (
            _accuracy(model, digits.train_images, digits.train_labels),
            _accuracy(model, digits.test_images, digits.test_labels),
        )


def _train(model: nn.Module, digits: Digits, learning_rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)  # three times as fast here
    for _ in range(NUM_EPOCHS):
        for batch in torch.randperm(len(digits.train_labels)).split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.train_images[batch]), digits.train_labels[batch]).backward()
            optimizer.step()


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).float().mean().item()
