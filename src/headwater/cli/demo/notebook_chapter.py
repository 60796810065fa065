"""The demo's first chapter: the notebook's numbers, and what they do and do not say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headwater.analysis import cotangent
from headwater.cli.demo import notebook
from headwater.cli.demo.seed_study import SeedStudy, seed_study
from headwater.cli.demo.wording import bullet, heading, interval, number, paragraph, subheading, table, times
from headwater.networks import print_gradients
from headwater.recording import Recording

if TYPE_CHECKING:
    from rich.console import Console


def show_notebook(page: Console) -> dict[str, Recording]:
    """The recordings of both variants, after the chapter has been printed."""
    heading(page, "1. The notebook: five small layers, with and without shortcuts")
    paragraph(
        page,
        "Linear + GELU layers of three units, one input [1, 0, -1], target 0, seed 123. Each line is the mean"
        " absolute gradient of one layer's weights after one backward pass.",
    )
    _print_lines(page)
    recordings = notebook.record_variants()
    rows = notebook.compare_layers(*recordings.values())
    _print_side_by_side(page, rows)
    _print_meaning(page, rows, [_loss_slope(recording) for recording in recordings.values()])
    study = seed_study()
    _print_seeds(page, study)
    _print_verdict(page, rows, study)
    return recordings


def _print_lines(page: Console) -> None:
    for index, name in enumerate(notebook.VARIANTS):
        subheading(page, name)
        print_gradients(notebook.build(use_shortcut=bool(index)), notebook.sample())


def _print_side_by_side(page: Console, rows: Sequence[notebook.LayerComparison]) -> None:
    subheading(page, "side by side")
    columns = ("layer", "without", "with", "ratio", "= loss slope", "× backward gain", "× forward signal")
    table(page, columns, [(str(row.layer), *_values(row)) for row in rows])
    paragraph(
        page, "The factors multiply to the ratio exactly. (For batches there is a fourth, alignment; it is 1 here.)"
    )


def _values(row: notebook.LayerComparison) -> list[str]:
    factors = row.factors
    ratios = (factors.ratio, factors.loss_slope, factors.backward_gain, factors.forward_signal)
    return [number(row.without), number(row.with_shortcuts), *(number(ratio, 5) for ratio in ratios)]


def _print_meaning(page: Console, rows: Sequence[notebook.LayerComparison], slopes: Sequence[float]) -> None:
    first, last = rows[0], rows[-1]
    factors = first.factors
    subheading(page, "How to read this")
    bullet(
        page,
        f"Layer 0's gradient is {times(factors.ratio, 5)} larger with shortcuts, but {times(factors.loss_slope, 5)} of that is only the"
        f" loss: its slope at the output is {number(slopes[1])} instead of {number(slopes[0])}, because this output"
        f" happens to lie further from the target. The architecture's share is {times(factors.architecture)}.",
    )
    bullet(
        page,
        "The fair number compares layers of one network: first / last layer is"
        f" {number(first.without / last.without)} without and {number(first.with_shortcuts / last.with_shortcuts)}"
        " with shortcuts.",
    )
    bullet(
        page,
        f"The last layer's {times(last.factors.ratio)} is no better reach: no layer stands behind it, and it has no"
        " shortcut itself (3 units in, 1 out). It is mostly loss slope and larger input.",
    )
    bullet(
        page,
        "The middle column of layer 0's gradient is exactly 0, since the input's second entry is 0. Nothing is dead.",
    )


def _loss_slope(recording: Recording) -> float:
    slope = cotangent(recording)
    return math.nan if slope is None else slope.norm


def _print_seeds(page: Console, study: SeedStudy) -> None:
    subheading(page, f"One seed is no evidence: {study.num_seeds} seeds")
    rows = [
        ("first / last layer, without shortcuts", interval(study.first_to_last_without)),
        ("first / last layer, with shortcuts", interval(study.first_to_last_with)),
        ("layer 0 with / without, loss slope taken out", interval(study.gain, " ×")),
    ]
    table(page, ("mean absolute weight gradients", "  median [95 % interval]"), rows, num_left=2)


def _print_verdict(page: Console, rows: Sequence[notebook.LayerComparison], study: SeedStudy) -> None:
    subheading(page, "Verdict")
    paragraph(
        page,
        "Without shortcuts the gradient vanishes: after only five layers the first one gets"
        f" 1/{1 / study.first_to_last_without.value:.0f} of what the last one gets. With shortcuts it is"
        f" 1/{1 / study.first_to_last_with.value:.0f}. They bring about {study.gain.value:.0f} × more gradient to the"
        f" first layer (more in {study.num_seeds_with_gain} of {study.num_seeds} seeds); the"
        f" {times(rows[0].factors.ratio, 5)} of the one seed counted the loss in.",
    )
