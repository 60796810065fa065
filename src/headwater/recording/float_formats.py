"""What a floating-point format of few bits can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """The range of a format.

    Args:
        name: as torch names the dtype.
        smallest_exponent: the smallest number above zero is 2 to this power.
        largest: the largest finite number.
    """

    name: str
    smallest_exponent: int
    largest: float

    @property
    def vanishing_exponent(self) -> int:
        """Numbers of a size up to 2 to this power are rounded to zero: half of the smallest, where a tie goes to even.

        >>> FLOAT_FORMATS["float16"].vanishing_exponent
        -25
        """
        return self.smallest_exponent - 1

    def largest_scale_exponent(self, size: float) -> int:
        """The largest k for which 2**k times a number of this size can still be held.

        Raises:
            ValueError: the size is not positive and finite.

        >>> FLOAT_FORMATS["float16"].largest_scale_exponent(1.0)
        15
        """
        if not 0.0 < size < math.inf:
            raise ValueError(f"expected a positive finite size, got {size}")
        mantissa, exponent = math.frexp(size)
        top_mantissa, top_exponent = math.frexp(self.largest)
        return top_exponent - exponent - (mantissa > top_mantissa)


# IEEE 754 binary16; bfloat16; and the 8-bit formats of Micikevicius et al. 2022, arXiv 2209.05433, table 1.
FLOAT_FORMATS = {
    form.name: form
    for form in (
        FloatFormat("float16", -24, 65504.0),
        FloatFormat("bfloat16", -133, 255.0 * 2.0**120),
        FloatFormat("float8_e4m3fn", -9, 448.0),
        FloatFormat("float8_e5m2", -16, 57344.0),
    )
}
