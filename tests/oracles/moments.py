"""The moments of a tensor in exact rational arithmetic: slow, obvious, and with nothing of headwater's own kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from headwater.recording import TensorStats


@dataclass(frozen=True)
class ExactMoments:
    """Counts, and exact sums over the finite elements."""

    numel: int
    nan_count: int
    inf_count: int
    zero_count: int
    sum: Fraction
    sum_abs: Fraction
    sum_squares: Fraction
    max_abs: float


def exact_moments(tensors: Tensor | Iterable[Tensor]) -> ExactMoments:
    """The exact moments of one tensor, or of several taken together; a complex number counts by its modulus.

    The only rounding is that of a complex modulus to float64.
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    values = [value for tensor in tensors for value in tensor.detach().to_dense().reshape(-1).tolist()]
    nan_count = sum(value != value for value in values)
    finite = [value for value in values if math.isfinite(abs(value))]
    moduli = [abs(value) for value in finite]
    return ExactMoments(
        numel=len(values),
        nan_count=nan_count,
        inf_count=len(values) - len(finite) - nan_count,
        zero_count=sum(value == 0 for value in finite),
        sum=_sum_of_powers([value.real for value in finite], 1),
        sum_abs=_sum_of_powers(moduli, 1),
        sum_squares=_sum_of_powers(moduli, 2),
        max_abs=float(max(moduli, default=0.0)),
    )


def assert_moments_match(stats: TensorStats, tensors: Tensor | Iterable[Tensor] | ExactMoments, *, rtol: float) -> None:
    """Checks statistics against the exact ones of the tensors: counts exactly, sums to `rtol` (the signed sum relative to sum_abs).

    Raises:
        AssertionError: the message names the first statistic that is off.
    """
    exact = tensors if isinstance(tensors, ExactMoments) else exact_moments(tensors)
    for count in ("numel", "nan_count", "inf_count", "zero_count"):
        assert getattr(stats, count) == getattr(exact, count), f"{count}: {stats} is not {exact}"
    assert math.isclose(stats.max_abs, exact.max_abs, rel_tol=1e-15), f"max_abs: {stats.max_abs} is not {exact.max_abs}"
    unit = Fraction(2) ** stats.scale_exponent
    tolerance = Fraction(rtol)
    for name, found, expected, size in (
        ("sum", Fraction(stats.sum) * unit, exact.sum, exact.sum_abs),
        ("sum_abs", Fraction(stats.sum_abs) * unit, exact.sum_abs, exact.sum_abs),
        ("sum_squares", Fraction(stats.sum_squares) * unit**2, exact.sum_squares, exact.sum_squares),
    ):
        assert abs(found - expected) <= 2 * tolerance * size, (
            f"{name}: {_approximately(found)} is not {_approximately(expected)} (relative to {_approximately(size)})"
        )


def exact_norm(moments: ExactMoments) -> float:
    """The L2 norm, rounded once; inf where float64 cannot hold it."""
    numerator, denominator = moments.sum_squares.numerator, moments.sum_squares.denominator
    digits = 2 ** (2 * max(0, 1200 - numerator.bit_length() // 2 + denominator.bit_length() // 2))
    root = Fraction(math.isqrt(numerator * digits // denominator), math.isqrt(digits))
    try:
        return float(root)
    except OverflowError:
        return math.inf


def _sum_of_powers(values: list[float], power: int) -> Fraction:
    ratios = [value.as_integer_ratio() for value in values]  # denominators are powers of two
    largest = max((denominator for _, denominator in ratios), default=1)
    total = sum((numerator * (largest // denominator)) ** power for numerator, denominator in ratios)
    return Fraction(total, largest**power)


def _approximately(value: Fraction) -> str:
    try:
        return repr(float(value))
    except OverflowError:
        return "more than float64 can hold"
