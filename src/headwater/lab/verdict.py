"""What a comparison is evidence of, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headwater.lab.layer_ratios import LayerRatio, VariantRatio
from headwater.lab.learning_curve import LearningCurve
from headwater.lab.numbers_in_words import times, with_interval
from headwater.lab.paired_statistics import PairedRatio, least_values

if TYPE_CHECKING:
    from headwater.lab.comparison import Comparison

_NO_CHANGE = 0.1  # decades: a factor that a reader would call one


def verdict(comparison: Comparison) -> str:
    """The verdict: for each variant what it does to the first layer's gradient beside the baseline, and how it trained.

    >>> from headwater.lab.comparison import Comparison
    >>> verdict(Comparison((), (), "loss"))
    ''
    """
    sentences = [sentence for ratio in comparison.ratios.values() for sentence in _about(ratio, comparison)]
    return " ".join([*sentences, *_first_to_last(comparison), *_training(comparison), *_warnings(comparison)])


def _about(ratio: VariantRatio, comparison: Comparison) -> Iterator[str]:
    first = ratio.layers[0]
    yield _headline(ratio, first.gain)
    if first.gain.num_undefined:
        yield (
            f"{first.gain.num_undefined} of {len(comparison.seeds)} seeds have no such ratio: the gradient is not finite, or zero in "
            "both."
        )
    if comparison.cotangent == "loss" and first.gain.num_pairs:
        yield _factors(ratio, first)


def _first_to_last(comparison: Comparison) -> Iterator[str]:
    """The fair number of the notebook: layers of one network beside each other, whatever its loss."""
    profiles = comparison.profile
    if all(len(profile.layers) > 1 and profile.first_to_last.num_pairs for profile in profiles.values()) and profiles:
        ends = [f"{with_interval(profile.first_to_last)} with '{name}'" for name, profile in profiles.items()]
        yield f"First / last layer's weight gradient: {', '.join(ends)}."


def _headline(ratio: VariantRatio, gain: PairedRatio) -> str:
    ours, theirs = f"'{ratio.variant}'", f"'{ratio.baseline}'"
    if not gain.num_pairs:
        return f"{ours} and {theirs} cannot be compared: no seed has a finite gradient at the first layer that is not zero in both."
    if not gain.has_interval:
        seeds = "One seed is" if gain.num_pairs == 1 else f"{gain.num_pairs} seeds are"
        return (
            f"{seeds} no evidence: {least_values()} or more give a 95 % interval. Here the first layer's gain with {ours} is "
            f"{times(gain.value)} that with {theirs} at equal cotangent."
        )
    share = f"{100.0 * gain.sign_share:.0f} % of {gain.num_pairs} seeds"
    if not gain.differs_from_one:
        return (
            f"No difference is shown at the first layer: its gain with {ours} is {with_interval(gain, ' ×')} that with {theirs} at equal "
            f"cotangent; {'lower' if gain.value < 1.0 else 'higher'} in {share}."
        )
    if gain.value in (0.0, math.inf):
        dead = ours if gain.value == 0.0 else theirs
        return f"With {dead} the first layer's gradient is exactly zero where the other's is not, in {share}."
    if gain.value < 1.0:
        inverse = gain._replace(
            value=1.0 / gain.value, low=1.0 / gain.high, high=1.0 / gain.low if gain.low else math.inf
        )
        return f"With {ours} the first layer's gain is {with_interval(inverse, ' ×')} lower than with {theirs} at equal cotangent; lower in {share}."
    return f"With {ours} the first layer's gain is {with_interval(gain, ' ×')} higher than with {theirs} at equal cotangent; higher in {share}."


def _factors(ratio: VariantRatio, first: LayerRatio) -> str:
    parts = [
        ("loss slope", first.loss_slope),
        ("backward gain", first.backward_gain),
        ("forward signal", first.forward_signal),
    ]
    if _decades(first.alignment) >= _NO_CHANGE:
        parts.append(("alignment of the samples", first.alignment))
    told = ", ".join(f"{name} {times(ratio.value)}" for name, ratio in parts)
    medians = " (medians)" if first.weight_gradient.num_pairs > 1 else ""
    sentence = f"Its mean absolute weight gradient is {times(first.weight_gradient.value)} that with '{ratio.baseline}': {told}{medians}."
    if _decades(first.loss_slope) > 0.5 * _decades(first.weight_gradient) >= 0.5 * _NO_CHANGE:
        sentence += " Most of that is the loss, and not the network."
    return sentence


def _decades(ratio: PairedRatio) -> float:
    return abs(math.log10(ratio.value)) if 0.0 < ratio.value < math.inf else math.inf


def _training(comparison: Comparison) -> Iterator[str]:
    if comparison.training is None or not comparison.curves:
        return
    measure = next(iter(comparison.curves.values())).measure
    what = measure.replace("held_out_", "held-out ")
    ends = [f"{with_interval(curve.medians(measure)[-1])} with '{name}'" for name, curve in comparison.curves.items()]
    yield f"After {comparison.training.num_steps} steps of {comparison.training.optimizer} the {what} is {', '.join(ends)}."
    yield from (_diverged(name, curve) for name, curve in comparison.curves.items() if curve.num_diverged)


def _diverged(name: str, curve: LearningCurve) -> str:
    return (
        f"'{name}' diverged under {curve.num_diverged} of {len(curve.diverged_at)} seeds (a loss that is not finite)."
    )


def _warnings(comparison: Comparison) -> Iterator[str]:
    for variant in comparison.variants:
        if comparison.cotangent == "loss" and variant.measured.is_the_same_for_all_seeds:
            yield (
                f"'{variant.name}' is the same network under every seed: its factory draws nothing at random, or sets a seed of "
                "its own."
            )
