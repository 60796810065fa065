"""How numbers are written in a report: plainly, three significant digits, and mostly in eight characters at most."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Three significant digits; whole numbers from a thousand on; an exponent for the very large and small.

    "-" stands for what was not measured.

    >>> [number(value) for value in (0.0123456, 0.5, 12345.6, 1234567.0, 1.5e-18, 0.0)]
    ['0.0123', '0.500', '12346', '1.23e+06', '1.50e-18', '0']
    >>> number(None), number(float("nan")), number(float("-inf"))
    ('-', 'nan', '-inf')
    """
    if value is None:
        return "-"
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return f"{value:g}"
    if 0.0009995 <= size < 999.5:
        return f"{value:#.3g}".rstrip(".")
    return f"{value:.0f}" if 999.5 <= size < 99999.5 else f"{value:.2e}"


def decades(value: float | None) -> str:
    """Signed, one decimal; nothing for what was not measured.

    >>> decades(-3.14159), decades(0.0), decades(2.0), decades(float("-inf")), decades(None)
    ('-3.1', '0.0', '+2.0', '-inf', '')
    """
    if value is None:
        return ""
    if not math.isfinite(value):
        return f"{value:g}"
    return f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"


def count(value: int, noun: str) -> str:
    """A number with its noun, thousands separated.

    >>> count(1234567, "parameter"), count(1, "module")
    ('1,234,567 parameters', '1 module')
    """
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def shape(value: tuple[int, ...] | None) -> str:
    """Sizes joined by x.

    >>> shape((8, 3, 32, 32)), shape(()), shape(None)
    ('8x3x32x32', 'scalar', '')
    """
    if value is None:
        return ""
    return "x".join(map(str, value)) if value else "scalar"
