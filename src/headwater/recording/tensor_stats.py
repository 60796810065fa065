"""Additive moments of one tensor, from which every statistic Headwater reports is derived."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from headwater.recording.exponent_histogram import ExponentHistogram


@dataclass(frozen=True, slots=True)
class TensorStats:
    """Additive moments of the finite part of a tensor, and the counts of what is not finite.

    Moments of two disjoint parts add up to the moments of the whole (`merge`), so statistics can be
    merged across micro-batches, ranks and steps in any order.

    The three sums are held in units of `2**scale_exponent` (its square for `sum_squares`), which is 0
    unless squares of the values would leave the range of float64. A complex tensor is measured by
    modulus; its `sum` is the sum of the real parts.

    Args:
        numel: number of elements, finite or not.
        nan_count: elements that are NaN.
        inf_count: elements that are +Inf or -Inf.
        zero_count: elements that are exactly zero.
        sum: sum of the finite elements, times `2**-scale_exponent`.
        sum_abs: sum of their absolute values, times `2**-scale_exponent`.
        sum_squares: sum of their squares, times `4**-scale_exponent`.
        max_abs: largest absolute value of a finite element; 0 if there is none.
        scale_exponent: binary exponent of the unit of the three sums.
        exponents: how many elements fall in each power of two, where that was asked for.

    >>> stats = TensorStats.from_values([3.0, -4.0])
    >>> stats.norm, stats.rms, stats.mean_abs
    (5.0, 3.5355339059327378, 3.5)
    """

    numel: int
    nan_count: int = 0
    inf_count: int = 0
    zero_count: int = 0
    sum: float = 0.0
    sum_abs: float = 0.0
    sum_squares: float = 0.0
    max_abs: float = 0.0
    scale_exponent: int = 0
    exponents: ExponentHistogram | None = None

    @classmethod
    def from_values(cls, values: list[float]) -> TensorStats:
        """The statistics of plain numbers, computed the slow and obvious way.

        >>> TensorStats.from_values([1.0, float("nan"), 0.0]).finite_count
        2
        """
        finite = [v for v in values if math.isfinite(v)]
        max_abs = max((abs(v) for v in finite), default=0.0)
        scale = scale_exponent_for(max_abs)
        scaled = [math.ldexp(v, -scale) for v in finite]
        return cls(
            numel=len(values),
            nan_count=sum(math.isnan(v) for v in values),
            inf_count=sum(math.isinf(v) for v in values),
            zero_count=sum(v == 0 for v in finite),
            sum=math.fsum(scaled),
            sum_abs=math.fsum(abs(v) for v in scaled),
            sum_squares=math.fsum(v * v for v in scaled),
            max_abs=max_abs,
            scale_exponent=scale,
        )

    @property
    def nonfinite_count(self) -> int:
        """Elements that are NaN or infinite."""
        return self.nan_count + self.inf_count

    @property
    def finite_count(self) -> int:
        """Elements that the moments are taken over."""
        return self.numel - self.nonfinite_count

    @property
    def norm(self) -> float:
        """L2 norm over the finite elements; 0 for an empty tensor."""
        return _ldexp(math.sqrt(self.sum_squares), self.scale_exponent)

    @property
    def rms(self) -> float:
        """L2 norm / sqrt(number of finite elements); nan where there is none."""
        if not self.finite_count:
            return math.nan
        return _ldexp(math.sqrt(self.sum_squares / self.finite_count), self.scale_exponent)

    @property
    def mean_abs(self) -> float:
        """Mean absolute value of the finite elements (the notebook's number); nan where there is none."""
        if not self.finite_count:
            return math.nan
        return _ldexp(self.sum_abs / self.finite_count, self.scale_exponent)

    @property
    def mean(self) -> float:
        """Mean of the finite elements; nan where there is none."""
        if not self.finite_count:
            return math.nan
        return _ldexp(self.sum / self.finite_count, self.scale_exponent)

    @property
    def std(self) -> float:
        """Standard deviation (population) of the finite elements; nan where there is none."""
        if not self.finite_count:
            return math.nan
        mean = self.sum / self.finite_count
        variance = max(self.sum_squares / self.finite_count - mean * mean, 0.0)
        return _ldexp(math.sqrt(variance), self.scale_exponent)

    @property
    def zero_fraction(self) -> float:
        """Share of the elements that are exactly zero; nan for an empty tensor."""
        return self.zero_count / self.numel if self.numel else math.nan

    @property
    def is_zero(self) -> bool:
        """Whether there is at least one element and every one is exactly zero."""
        return self.numel > 0 and self.zero_count == self.numel

    def merge(self, other: TensorStats) -> TensorStats:
        """The statistics of both tensors' elements together: associative and commutative.

        >>> left, right = TensorStats.from_values([1.0]), TensorStats.from_values([1e300])
        >>> left.merge(right).norm
        1e+300
        """
        scale = scale_exponent_for(max(self.max_abs, other.max_abs))
        a, b = self._with_scale(scale), other._with_scale(scale)
        return TensorStats(
            numel=a.numel + b.numel,
            nan_count=a.nan_count + b.nan_count,
            inf_count=a.inf_count + b.inf_count,
            zero_count=a.zero_count + b.zero_count,
            sum=a.sum + b.sum,
            sum_abs=a.sum_abs + b.sum_abs,
            sum_squares=a.sum_squares + b.sum_squares,
            max_abs=max(a.max_abs, b.max_abs),
            scale_exponent=scale,
            exponents=_merge_exponents(a, b),
        )

    def scaled_by_power_of_two(self, exponent: int) -> TensorStats:
        """The statistics of the same tensor times `2**exponent`: exact, also past the dtype's range.

        >>> TensorStats.from_values([3.0]).scaled_by_power_of_two(2).norm
        12.0
        """
        if exponent == 0:
            return self
        moved = TensorStats(
            numel=self.numel,
            nan_count=self.nan_count,
            inf_count=self.inf_count,
            zero_count=self.zero_count,
            sum=self.sum,
            sum_abs=self.sum_abs,
            sum_squares=self.sum_squares,
            max_abs=_ldexp(self.max_abs, exponent),
            scale_exponent=self.scale_exponent + exponent,
            exponents=self.exponents.shifted(exponent) if self.exponents else None,
        )
        return moved._with_scale(scale_exponent_for(moved.max_abs))

    def _with_scale(self, scale_exponent: int) -> TensorStats:
        shift = self.scale_exponent - scale_exponent
        if shift == 0:
            return self
        return TensorStats(
            numel=self.numel,
            nan_count=self.nan_count,
            inf_count=self.inf_count,
            zero_count=self.zero_count,
            sum=_ldexp(self.sum, shift),
            sum_abs=_ldexp(self.sum_abs, shift),
            sum_squares=_ldexp(self.sum_squares, 2 * shift),
            max_abs=self.max_abs,
            scale_exponent=scale_exponent,
            exponents=self.exponents,
        )


def merged_stats(parts: Iterable[TensorStats]) -> TensorStats | None:
    """The statistics of all parts' elements together; None of no parts.

    >>> merged_stats([TensorStats.from_values([3.0]), TensorStats.from_values([4.0])]).norm
    5.0
    """
    merged: TensorStats | None = None
    for part in parts:
        merged = part if merged is None else merged.merge(part)
    return merged


def scale_exponent_for(max_abs: float) -> int:
    """The binary exponent that keeps sums of squares of such values inside float64; mostly 0.

    Squares of values between 2**-400 and 2**400 can be summed 2**200 times without leaving the range.

    >>> scale_exponent_for(1.0), scale_exponent_for(5e-324), scale_exponent_for(1e300)
    (0, -1073, 997)
    """
    if max_abs == 0.0 or 2.0**-400 <= max_abs <= 2.0**400:
        return 0
    return math.frexp(max_abs)[1]


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def _merge_exponents(a: TensorStats, b: TensorStats) -> ExponentHistogram | None:
    if a.exponents is not None and b.exponents is not None:
        return a.exponents.merge(b.exponents)
    # An empty part adds nothing; otherwise a histogram of only one part would misstate the whole.
    if a.numel == 0:
        return b.exponents
    return a.exponents if b.numel == 0 else None
