"""How numbers are written in a report: plainly, and in at most eight characters."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three significant digits, two where there is an exponent; "-" for what was not measured.

    >>> number(0.0123456), number(1234567.0), number(0.0), number(None), number(float("nan"))
    ('0.0123', '1.2e+06', '0', '-', 'nan')
    """
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def decades(value: float | None) -> str:
    """Signed, one decimal.

    >>> decades(-3.14159), decades(0.0), decades(float("-inf")), decades(None)
    ('-3.1', '0.0', '-inf', '')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return f"{value:g}"
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def count(value: int) -> str:
    """With thousands separated.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{value:,}"


def shape(value: tuple[int, ...] | None) -> str:
    """Sizes joined by x.

    >>> shape((8, 3, 32, 32)), shape(()), shape(None)
    ('8x3x32x32', 'scalar', '')
    """
    if value is None:
        return ""
    return "x".join(map(str, value)) if value else "scalar"
