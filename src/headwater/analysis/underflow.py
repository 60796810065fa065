"""How much of a tensor a format of few bits rounds to zero, from the exact counts of its binary exponents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from headwater.recording import TensorStats
from headwater.recording.float_formats import FloatFormat

# Mean of x**2 over a bin [2**e, 2**(e + 1)) that is filled evenly, in units of 4**e.
_MEAN_SQUARE_OF_BIN = 7.0 / 3.0
_MOST_SIGMAS = 3.0  # from there on every entry that is not zero is the smallest number


@dataclass(frozen=True, slots=True)
class Lost:
    """What is rounded to zero of a tensor.

    Args:
        entries: share of the entries that are not zero, or were not before they were rounded.
        energy: their share of the sum of squares.
    """

    entries: float
    energy: float


@dataclass(frozen=True, slots=True)
class Tail:
    """The small entries of a measured tensor.

    Args:
        stats: with exponents.
        form: the format that is asked about.
        is_rounded: whether the tensor was in this format when it was measured, so that what is lost is zero already.
        scale_exponent: it was measured with the loss multiplied by two to this power.
    """

    stats: TensorStats
    form: FloatFormat
    is_rounded: bool = False
    scale_exponent: int = 0

    @property
    def num_entries(self) -> int:
        """Entries that are not zero."""
        return self.stats.exponents.total if self.stats.exponents is not None else 0

    def lost(self, scale_exponent: int = 0) -> Lost:
        """What the format rounds to zero with the loss multiplied by 2**scale_exponent; nan for a tensor of zeros.

        Exact for a tensor measured with more bits, but for entries of exactly half of the smallest number, which are not
        counted; the energy within a bin is taken to be spread evenly. What is zero already is reckoned from the entries
        next to zero, as for a normal distribution: of ReLU's zeros, which have no such neighbours, none.

        >>> from headwater.recording.exponent_histogram import ExponentHistogram
        >>> from headwater.recording.float_formats import FLOAT_FORMATS
        >>> stats = TensorStats(4, sum_squares=1.0, exponents=ExponentHistogram(-26, (1, 0, 3)))
        >>> Tail(stats, FLOAT_FORMATS["float16"]).lost().entries, Tail(stats, FLOAT_FORMATS["float16"]).lost(1).entries
        (0.25, 0.0)
        """
        histogram = self.stats.exponents
        if histogram is None or not histogram.total:
            return Lost(math.nan, math.nan)
        bound = self.form.vanishing_exponent - scale_exponent
        hidden, half_ulps = self._hidden()
        num_all = histogram.total + hidden
        energy = sum(
            count * _MEAN_SQUARE_OF_BIN * _squared_ratio(histogram.lowest + index, self.stats)
            for index, count in enumerate(histogram.counts[: max(bound - histogram.lowest, 0)])
        )
        if scale_exponent > self.scale_exponent:
            half_ulps = math.ldexp(half_ulps, self.scale_exponent - scale_exponent)
            hidden = num_all * normal_share_within(half_ulps)
        entries = (histogram.count_below(bound) + hidden) / num_all
        return Lost(min(entries, 1.0), min(energy + normal_energy_within(half_ulps), 1.0))

    def _hidden(self) -> tuple[float, float]:
        """How many zeros were entries before they were rounded; half of the smallest number, in deviations of the tensor."""
        histogram = self.stats.exponents
        index = self.form.smallest_exponent - self.scale_exponent - (histogram.lowest if histogram else 0)
        if not self.is_rounded or histogram is None or not 0 <= index < len(histogram.counts):
            return 0.0, 0.0
        half_ulps = half_ulps_of(histogram.counts[index] / histogram.total)
        share = normal_share_within(half_ulps)
        hidden = min(self.stats.zero_count, histogram.total * share / (1.0 - share))
        if (
            hidden == self.stats.zero_count
        ):  # where hardly anything is left but the smallest number, the zeros know better
            share = hidden / (histogram.total + hidden)
            half_ulps = min(half_ulps, NormalDist().inv_cdf(0.5 + 0.5 * share))
        return hidden, half_ulps


def normal_share_within(sigmas: float) -> float:
    """Share of a normal distribution within so many deviations of zero: erf(a / sqrt(2)).

    >>> round(normal_share_within(0.5), 3), round(normal_share_within(1.0), 3)
    (0.383, 0.683)
    """
    return math.erf(sigmas / math.sqrt(2.0))


def normal_energy_within(sigmas: float) -> float:
    """Its share of the variance: erf(a / sqrt(2)) - a sqrt(2 / pi) exp(-a**2 / 2).

    >>> round(normal_energy_within(0.5), 4), round(normal_energy_within(1.0), 4)
    (0.0309, 0.1987)
    """
    return math.erf(sigmas / math.sqrt(2.0)) - sigmas * math.sqrt(2.0 / math.pi) * math.exp(-sigmas * sigmas / 2.0)


def half_ulps_of(share_of_smallest: float) -> float:
    """Half of the smallest number, in deviations of normal values of which this share, of those not zero, became the smallest one.

    Values between half of it and one and a half become the smallest number. 0 for a share of zero, at most 3.

    >>> a = half_ulps_of((normal_share_within(1.5) - normal_share_within(0.5)) / (1 - normal_share_within(0.5)))
    >>> round(a, 6)
    0.5
    """
    low, high = 0.0, _MOST_SIGMAS
    for _ in range(60):
        middle = 0.5 * (low + high)
        rest = math.erfc(middle / math.sqrt(2.0))
        if rest - math.erfc(3.0 * middle / math.sqrt(2.0)) < share_of_smallest * rest:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _squared_ratio(exponent: int, stats: TensorStats) -> float:
    """4**exponent over the sum of squares."""
    return math.ldexp(1.0, exponent - stats.scale_exponent) ** 2 / stats.sum_squares
