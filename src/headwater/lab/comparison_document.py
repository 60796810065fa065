"""What every renderer of a comparison shows: computed once, as text in sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from headwater.lab.compared_variant import ComparedVariant
from headwater.lab.layer_ratios import LayerRatio, VariantRatio, counterparts
from headwater.lab.numbers_in_words import decades_with_interval, plain_number, with_interval
from headwater.lab.variant_profile import VariantProfile
from headwater.report.printable import printable, shortened

if TYPE_CHECKING:
    from headwater.lab.comparison import Comparison

_MOST_ROWS = 12
_MOST_COLUMNS = 28  # of a variant's name over its column; the first table has it in full
_ONE = (0.995, 1.005)  # what is written as 1.0 in every row is not worth a column


class Section(NamedTuple):
    """A table with its heading.

    Args:
        heading: above it.
        columns: their names; the first one is left-aligned.
        rows: of text.
        note: below it; "" for none.
    """

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class ComparisonDocument(NamedTuple):
    """A comparison to read.

    Args:
        title: what was compared.
        facts: how.
        variants: what each of them is, the baseline first.
        verdict: in sentences.
        sections: tables.
        remarks: theory, and whatever else has to be said.
    """

    title: str
    facts: tuple[str, ...]
    variants: tuple[str, ...]
    verdict: str
    sections: tuple[Section, ...]
    remarks: tuple[str, ...]


def comparison_document(comparison: Comparison) -> ComparisonDocument:
    """The document of a comparison.

    >>> from headwater.lab.comparison import Comparison
    >>> comparison_document(Comparison((), (0, 1), "random")).title
    'Headwater: comparison of 0 variants over 2 seeds'
    """
    num_seeds = len(comparison.seeds)
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds:,} seeds"
    gradient = "gradient of the loss" if comparison.cotangent == "loss" else "random cotangents, no loss"
    return ComparisonDocument(
        title=f"Headwater: comparison of {len(comparison.variants)} variants over {seeds}",
        facts=(gradient, "same seeds, data and cotangents for all", "95 % intervals of medians"),
        variants=tuple(_variant(variant, is_baseline=not index) for index, variant in enumerate(comparison.variants)),
        verdict=printable(comparison.verdict),
        sections=tuple(_sections(comparison)),
        remarks=tuple(printable(f"{v.name}: {v.expected.sentence}") for v in comparison.variants if v.expected),
    )


def _variant(variant: ComparedVariant, *, is_baseline: bool) -> str:
    what = f"{variant.name}: {variant.description}, {variant.num_parameters:,} parameters"
    return printable(f"{what} (the baseline)" if is_baseline else what)


def _sections(comparison: Comparison) -> Iterator[Section]:
    if not comparison.variants:
        return
    yield _profiles(comparison)
    yield from (_ratio(ratio) for ratio in comparison.ratios.values())
    if comparison.curves:
        yield _curves(comparison)


def _profiles(comparison: Comparison) -> Section:
    """One row per layer of the deepest variant; beside it the layers of the others that are nearest in relative depth."""
    profiles = comparison.profile
    deepest = max(profiles.values(), key=lambda profile: len(profile.layers))
    shown = _shown(len(deepest.layers))
    beside = {name: counterparts(len(deepest.layers), len(profile.layers)) for name, profile in profiles.items()}
    rows = (
        (printable(deepest.layers[row]), *(_gain(profile, beside[name][row]) for name, profile in profiles.items()))
        for row in shown
    )
    notes = [_hidden(len(shown), len(deepest.layers))]
    if len({len(profile.layers) for profile in profiles.values()}) > 1:
        notes.append("variants of different depth are aligned by relative depth")
    return Section(
        "gain from the output to each layer, in decades (log10 of gradient norm / norm at the output)",
        ("layer", *(shortened(printable(name), _MOST_COLUMNS) for name in profiles)),
        tuple(rows),
        "; ".join(note for note in notes if note),
    )


def _gain(profile: VariantProfile, layer: int) -> str:
    return decades_with_interval(profile.gain_decades[layer])


def _ratio(ratio: VariantRatio) -> Section:
    shown = _shown(len(ratio.layers))
    layers = [ratio.layers[index] for index in shown]
    has_alignment = any(not _ONE[0] <= layer.alignment.value <= _ONE[1] for layer in ratio.layers)
    columns = ("layer", "gain", "higher in", "dL/dW", "= slope", "x backward", "x forward")
    return Section(
        f"'{printable(ratio.variant)}' over '{printable(ratio.baseline)}', medians of pairs: gain at equal cotangent; mean abs dL/dW = loss slope x backward gain x forward signal x alignment of the samples",
        (*columns, "x align") if has_alignment else columns,
        tuple(_ratio_row(layer, has_alignment=has_alignment) for layer in layers),
        _hidden(len(shown), len(ratio.layers)),
    )


def _ratio_row(layer: LayerRatio, *, has_alignment: bool) -> tuple[str, ...]:
    gain = layer.gain
    num_different = gain.num_higher + gain.num_lower  # at the output the gain is one in both
    share = f"{100 * gain.num_higher / gain.num_pairs:.0f} %" if num_different else "-"
    factors = [layer.weight_gradient, layer.loss_slope, layer.backward_gain, layer.forward_signal]
    factors += [layer.alignment] if has_alignment else []
    return (printable(layer.layer), with_interval(gain), share, *(plain_number(factor.value) for factor in factors))


def _curves(comparison: Comparison) -> Section:
    training = comparison.training
    measures = [
        measure
        for measure in ("loss", "accuracy", "held_out_loss", "held_out_accuracy")
        if measure == "loss" or any(curve.has(measure) for curve in comparison.curves.values())
    ]
    rows = (
        (
            printable(name),
            *(with_interval(curve.medians(measure)[-1]) for measure in measures),
            f"{curve.num_diverged} of {len(curve.diverged_at)}",
        )
        for name, curve in comparison.curves.items()
    )
    after = "" if training is None else f" after {training.num_steps} steps of {training.optimizer}"
    columns = ("variant", *(measure.replace("held_out_", "held-out ") for measure in measures), "diverged")
    return Section(
        f"training: medians over seeds{after}", columns, tuple(rows), "a network that diverged counts as the worst"
    )


def _shown(num_layers: int) -> Sequence[int]:
    """The layers that have a row: all, or twelve from the first to the last."""
    if num_layers <= _MOST_ROWS:
        return range(num_layers)
    return [round(step * (num_layers - 1) / (_MOST_ROWS - 1)) for step in range(_MOST_ROWS)]


def _hidden(num_shown: int, num_layers: int) -> str:
    return "" if num_shown == num_layers else f"{num_shown} of {num_layers} layers are shown; .table has all"
