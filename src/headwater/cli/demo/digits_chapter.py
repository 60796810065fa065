"""The demo's second chapter: a network on real data that does not learn, why, and its repair."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from headwater.cli.demo import digits
from headwater.cli.demo.digits import FAILING, REPAIRED, Digits, Variant
from headwater.cli.demo.wording import heading, number, paragraph, subheading, table
from headwater.cli.output import console
from headwater.cli.presentation import print_diagnosis
from headwater.diagnosis import Diagnosis, diagnose
from headwater.recording import Recording

if TYPE_CHECKING:
    from rich.console import Console


def show_digits(page: Console) -> dict[str, Recording]:
    """The recordings of the failing and of the repaired network, after the chapter has been printed."""
    data = digits.load_digits()
    heading(page, f"2. Real data: {digits.NUM_LAYERS} layers on handwritten digits")
    paragraph(
        page,
        f"scikit-learn's {len(data.train_labels) + len(data.test_labels):,} digits of 8 × 8 pixels."
        f" A network of {digits.NUM_LAYERS - 1} sigmoid layers of {digits.WIDTH} units and a linear one, as PyTorch"
        " initialises them, does not learn them. Its diagnosis, before any training:",
    )
    failing = _show_diagnosis(page, FAILING, data)
    subheading(page, f"Repaired: {REPAIRED.name}")
    paragraph(page, "As deep, as wide, on the same batch; x + layer(x) in place of layer(x):")
    repaired = _show_diagnosis(page, REPAIRED, data)
    accuracies = _train_all(data)
    _print_accuracies(page, accuracies)
    _print_verdict(page, accuracies)
    return {FAILING.name: failing.recording, REPAIRED.name: repaired.recording}


def _show_diagnosis(page: Console, variant: Variant, data: Digits) -> Diagnosis:
    images, labels = digits.first_batch(data)
    diagnosis = diagnose(digits.build(variant, seed=0), images, labels, loss=nn.CrossEntropyLoss())
    page.print()
    print_diagnosis(diagnosis)
    return diagnosis


def _train_all(data: Digits) -> dict[str, list[float]]:
    from rich.progress import Progress

    bar_page = console(sys.stderr)
    accuracies = {}
    with Progress(console=bar_page, transient=True, disable=not bar_page.is_terminal) as progress:
        task = progress.add_task("", total=len(digits.VARIANTS) * digits.num_trainings())
        for variant in digits.VARIANTS:
            progress.update(task, description=f"training {variant.name}")
            accuracies[variant.name] = digits.held_out_accuracies(variant, data, lambda: progress.advance(task))
    return accuracies


def _print_accuracies(page: Console, accuracies: dict[str, list[float]]) -> None:
    subheading(page, "After a short training")
    paragraph(
        page,
        f"{digits.NUM_EPOCHS} epochs of Adam, the same for all: {len(digits.SEEDS)} seeds, {len(digits.LEARNING_RATES)}"
        " learning rates, of which the one that fits the training data best is kept. Guessing gives 0.10.",
    )
    rows = [(name, _median(values), f"{_least(values)} to {_most(values)}") for name, values in accuracies.items()]
    table(page, ("network", "  test accuracy", "  over seeds"), rows, num_left=1)


def _median(values: Sequence[float]) -> str:
    return number(statistics.median(values))


def _least(values: Sequence[float]) -> str:
    return number(min(values))


def _most(values: Sequence[float]) -> str:
    return number(max(values))


def _print_verdict(page: Console, accuracies: dict[str, list[float]]) -> None:
    failing, shortcuts, xavier, repaired = (_median(accuracies[variant.name]) for variant in digits.VARIANTS)
    subheading(page, "Verdict")
    paragraph(
        page,
        f"The sigmoid network stays at guessing ({failing}) whatever the learning rate, as its diagnosis foretold: its"
        f" first layers get no usable gradient. The same budget takes the repaired one to {repaired}. Either half of the"
        f" repair helps by itself: shortcuts alone reach {shortcuts}, tanh and Xavier alone {xavier}.",
    )
