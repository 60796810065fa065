"""Formats of few bits: which one is asked about, and what their range allows."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from headwater.capture.problem import ProblemError
from headwater.recording import Combine, Series
from headwater.recording.float_formats import FLOAT_FORMATS


def precision_asked_for(name: str | None) -> list[Series]:
    """The series that says in a recording which format was asked about; none for None.

    Raises:
        ProblemError: no such format.

    >>> [(one.name, one.item) for one in precision_asked_for("float16")]
    [('precision', 'float16')]
    """
    if name is None:
        return []
    if name not in FLOAT_FORMATS:
        raise ProblemError(f"expected the precision to be one of {', '.join(FLOAT_FORMATS)}, got {name!r}")
    return [Series("precision", "", -1, name, Combine.MAXIMUM, np.ones(1))]


def has_few_bits(model: nn.Module) -> bool:
    """Whether some parameter is in a format of 16 bits or fewer.

    >>> has_few_bits(nn.Linear(2, 2)), has_few_bits(nn.Linear(2, 2).half())
    (False, True)
    """
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return any(str(dtype).removeprefix("torch.") in FLOAT_FORMATS for dtype in dtypes)


def within_range(exponent: int, dtype: torch.dtype) -> int:
    """The exponent, or the nearest one whose power of two is a normal number of the dtype.

    >>> within_range(40, torch.float16), within_range(-40, torch.float16), within_range(40, torch.float32)
    (15, -14, 40)
    """
    limits = torch.finfo(dtype)
    highest, lowest = (math.frexp(number)[1] - 1 for number in (limits.max, limits.smallest_normal))
    return max(lowest, min(exponent, highest))
