"""What torch functions are called, and which of the tensors that they read and return have numbers to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headwater.capture import torch_internals


def plain_name(function: Callable[..., Any]) -> str:
    """The name of a torch function without underscores around it.

    >>> plain_name(torch.Tensor.relu_), plain_name(torch.Tensor.__matmul__)
    ('relu', 'matmul')
    """
    return str(getattr(function, "__name__", "")).strip("_").removeprefix("special_")


def can_be_read(tensor: Tensor) -> bool:
    """Whether a tensor has floating-point numbers that can be summed.

    >>> can_be_read(torch.ones(2)), can_be_read(torch.ones(2, dtype=torch.int))
    (True, False)
    """
    return (
        tensor.is_floating_point()
        and tensor.numel() > 0
        and tensor.device.type != "meta"
        and tensor.layout is torch.strided
        and not torch_internals.is_functorch_wrapper(tensor)
        and not torch_internals.is_fake(tensor)
    )
