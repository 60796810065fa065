"""Bars of text on the axis of decades: to the left of the axis for a loss, to the right for growth."""

from __future__ import annotations

import math

from headwater.report.decades_axis import DecadesAxis
from headwater.report.glyphs import Glyphs


def zero_index(axis: DecadesAxis, width: int) -> int:
    """Which character of a bar of `width` stands for 0; every side that has decades has at least one more.

    >>> zero_index(DecadesAxis(-9, 0), 10), zero_index(DecadesAxis(-1, 99), 10), zero_index(DecadesAxis(0, 3), 10)
    (9, 1, 0)
    """
    left = round((width - 1) * axis.position(0.0))
    return min(max(left, 1 if axis.low else 0), width - 2 if axis.high else width - 1)


def bar(gain_decades: float, axis: DecadesAxis, width: int, glyphs: Glyphs) -> str:
    """A bar from 0 to a gain, in half characters; an exactly zero gradient is marked at the left end.

    >>> from headwater.report.glyphs import UNICODE
    >>> [bar(gain, DecadesAxis(-4, 2), 7, UNICODE) for gain in (-2.5, 0.0, 1.0, float("-inf"))]
    [' ▐██│  ', '    │  ', '    │█ ', '×   │  ']
    """
    left = zero_index(axis, width)
    right = width - 1 - left
    if gain_decades == -math.inf:
        return f"{glyphs.nothing}{' ' * (left - 1)}{glyphs.axis}{' ' * right}"
    side, end = (left, axis.low) if gain_decades < 0.0 else (right, axis.high)
    full, half = divmod(round(2 * side * gain_decades / end) if end else 0, 2)
    if gain_decades < 0.0:
        return f"{glyphs.left_half * half + glyphs.full * full:>{left}}{glyphs.axis}{' ' * right}"
    return f"{' ' * left}{glyphs.axis}{glyphs.full * full + glyphs.right_half * half:<{right}}"


def band(gain_range_decades: tuple[float, float], axis: DecadesAxis, width: int, glyphs: Glyphs) -> str:
    """The characters between the ends of the bars of several gains, shaded.

    >>> from headwater.report.glyphs import UNICODE
    >>> band((-4.0, -2.0), DecadesAxis(-4, 2), 7, UNICODE), band((-1.0, 1.0), DecadesAxis(-4, 2), 7, UNICODE)
    ('▒▒▒ │  ', '   ▒│▒ ')
    """
    zero = zero_index(axis, width)
    low, high = (_index(gain, axis, zero, width) for gain in gain_range_decades)
    shaded = "".join(glyphs.band if low <= index <= high else " " for index in range(width))
    return f"{shaded[:zero]}{glyphs.axis}{shaded[zero + 1 :]}"


def _index(gain_decades: float, axis: DecadesAxis, zero: int, width: int) -> int:
    """The outermost character of a gain's bar."""
    if gain_decades < 0.0:
        return zero - math.ceil(zero * max(gain_decades, axis.low) / axis.low - 0.25)
    side = width - 1 - zero
    return zero + math.ceil(side * min(gain_decades, axis.high) / axis.high - 0.25) if axis.high else zero
