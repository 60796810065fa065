"""How many elements of a tensor fall in each power of two: exact, mergeable, enough for percentiles and underflow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExponentHistogram:
    """Counts of finite non-zero elements by binary exponent.

    `counts[i]` is the number of elements x with `2**(lowest + i) <= |x| < 2**(lowest + i + 1)`.

    >>> ExponentHistogram(lowest=-1, counts=(2, 0, 1)).count_below(0)
    2
    """

    lowest: int
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Finite non-zero elements counted."""
        return sum(self.counts)

    def count_below(self, exponent: int) -> int:
        """Non-zero elements with |x| < 2**exponent: exact, since the bounds are powers of two."""
        return sum(self.counts[: max(exponent - self.lowest, 0)])

    def percentile_exponent(self, fraction: float) -> int:
        """The exponent e whose bin [2**e, 2**(e+1)) holds the given fraction of the elements, in order of size.

        Raises:
            ValueError: the fraction is not in [0, 1], or nothing was counted.

        >>> ExponentHistogram(lowest=-3, counts=(1, 8, 1)).percentile_exponent(0.5)
        -2
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"expected a fraction from 0 to 1, got {fraction}")
        if not self.total:
            raise ValueError("an exponent histogram without elements has no percentiles")
        # A float that was rounded up to the total would lie past the last element.
        rank = min(fraction * (self.total - 1), self.total - 1)
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen > rank:
                return self.lowest + index
        raise AssertionError("unreachable: the rank is below the total")

    def merge(self, other: ExponentHistogram) -> ExponentHistogram:
        """The histogram of both tensors' elements together: associative and commutative.

        >>> ExponentHistogram(0, (1,)).merge(ExponentHistogram(2, (5,)))
        ExponentHistogram(lowest=0, counts=(1, 0, 5))
        """
        if not self.counts:
            return other
        if not other.counts:
            return self
        lowest = min(self.lowest, other.lowest)
        highest = max(self.lowest + len(self.counts), other.lowest + len(other.counts))
        counts = [0] * (highest - lowest)
        for histogram in (self, other):
            for index, count in enumerate(histogram.counts):
                counts[histogram.lowest - lowest + index] += count
        return ExponentHistogram(lowest, tuple(counts))

    def shifted(self, exponent: int) -> ExponentHistogram:
        """The histogram of the same elements times `2**exponent`."""
        return ExponentHistogram(self.lowest + exponent, self.counts)
