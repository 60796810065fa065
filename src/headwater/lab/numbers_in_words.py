"""How a comparison writes its numbers: few digits, and with their intervals."""

from __future__ import annotations

import math

from headwater.lab.paired_statistics import Median, PairedRatio


def times(ratio: float) -> str:
    """A ratio to read: two significant digits, three from ten on, with the sign.

    >>> times(0.0123), times(8.0), times(81.26), times(1099.76), times(2.5e7), times(math.inf)
    ('0.012 ×', '8.0 ×', '81 ×', '1100 ×', '2.5e+07 ×', 'inf ×')
    """
    return f"{plain_number(ratio)} ×"


def plain_number(value: float) -> str:
    """Two significant digits, three from a hundred on, without an exponent where that is short.

    >>> plain_number(0.0123), plain_number(123.4), plain_number(1e-5), plain_number(0.0)
    ('0.012', '123', '1.0e-05', '0')
    """
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 99.5:
        return f"{value:.3g}" if abs(value) >= 9999.5 else f"{float(f'{value:.3g}'):.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:#.2g}".removesuffix(".")


def with_interval(middle: PairedRatio | Median, unit: str = "") -> str:
    """A median with its interval, where there is one.

    >>> with_interval(Median(12.0, 8.0, 19.3, 64), " ×"), with_interval(Median(12.0, -math.inf, math.inf, 1))
    ('12 × (8.0 to 19)', '12')
    """
    value = f"{plain_number(middle.value)}{unit}"
    if not middle.has_interval:
        return value
    return f"{value} ({plain_number(middle.low)} to {plain_number(middle.high)})"


def decades_with_interval(middle: Median) -> str:
    """A median of decades, signed, with its interval where there is one.

    >>> decades_with_interval(Median(-2.5, -2.62, -2.41, 64)), decades_with_interval(Median(-2.5, -math.inf, math.inf, 1))
    ('-2.50 (-2.62 to -2.41)', '-2.50')
    """
    if not middle.has_interval:
        return decades(middle.value)
    return f"{decades(middle.value)} ({decades(middle.low)} to {decades(middle.high)})"


def decades(value: float) -> str:
    """Signed, two decimals; a dash for what is not known.

    >>> decades(0.0), decades(2.345), decades(-math.inf), decades(math.nan)
    ('0.00', '+2.35', '-inf', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:+.2f}".replace("+0.00", "0.00").replace("-0.00", "0.00")
