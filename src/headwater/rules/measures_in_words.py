"""What findings about the gradient's way say of its rate, elasticity, reach and noise."""

from __future__ import annotations

import math

from headwater.analysis.gradient_measures import GradientMeasures
from headwater.recording import Recording

_MANY = 0.5  # of the weights: more than half stay where they are
_EVEN = 1.0  # energies of signal and noise


def measures_evidence(measures: GradientMeasures) -> dict[str, float | int | str]:
    """Every number that the sentences here may state, where it is known.

    >>> nan = math.nan
    >>> measures_evidence(GradientMeasures(-0.5, nan, nan, 0.0, 0.0, 0.0, -8.0, nan, nan, nan))["elasticity_decades"]
    -8.0
    """
    rate = measures.rate_decades_per_layer
    found: dict[str, float | int | str] = {"rate_decades_per_layer": rate, "factor_per_layer": 10**rate}
    known = {
        "factor_per_layer_low": 10**measures.rate_low,
        "factor_per_layer_high": 10**measures.rate_high,
        "elasticity_decades": measures.elasticity_decades,
        "percent_unchanged": 100.0 * measures.unchanged_share,
        "signal_to_noise": measures.signal_to_noise,
        "last_signal_to_noise": measures.last_signal_to_noise,
    }
    return found | {name: value for name, value in known.items() if not math.isnan(value)}


def rate_in_words(measures: GradientMeasures) -> str:
    """The factor per layer with its interval, to end a sentence with; empty where there is none.

    >>> rate_in_words(GradientMeasures(-1.0, -1.1, -0.9, 0.0, 0.0, 0.0, -8.0, math.nan, math.nan, math.nan))
    ': a factor of 0.1 per layer (0.079 to 0.13)'
    """
    if not math.isfinite(measures.rate_decades_per_layer):
        return ""
    factor = f": a factor of {10**measures.rate_decades_per_layer:.3g} per layer"
    if not math.isfinite(measures.rate_low):
        return factor
    return f"{factor} ({10**measures.rate_low:.2g} to {10**measures.rate_high:.2g})"


def reach_in_words(measures: GradientMeasures, recording: Recording) -> str:
    """What the optimiser's next step does to the first layers, where it leaves most weights as they are; empty elsewhere."""
    if not measures.unchanged_share > _MANY:
        return ""
    optimizer = recording.context.optimizer or "the optimiser"
    return f" The next step of {optimizer} leaves {100.0 * measures.unchanged_share:.3g} % of the weights there as they are."


def noise_in_words(measures: GradientMeasures) -> str:
    """Signal over noise at the first layers, where noise drowns it there and not at the last layer; empty elsewhere."""
    first, last = measures.signal_to_noise, measures.last_signal_to_noise
    if not (first < _EVEN <= last):
        return ""
    found = "no signal was found in" if first <= 0.0 else f"signal over noise is {first:.2g} in"
    return f" In this batch {found} the weight gradients there, and it is {last:.2g} at the last layer."
