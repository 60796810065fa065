"""One sentence for an input that does not fit a network, instead of an error from the middle of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def check_input(x: torch.Tensor, expected: Sequence[str | int]) -> None:
    """Nothing, where a tensor has a shape; numbers are sizes, words are free, "..." stands for any leading dimensions.

    Raises:
        ValueError: it has another one.

    >>> check_input(torch.zeros(5, 3), ("batch", 2))
    Traceback (most recent call last):
    ...
    ValueError: expected an input of shape (batch, 2), got (5, 3)
    """
    shape = tuple(x.shape)
    compared = shape
    if expected[0] == "...":
        compared, expected_sizes = shape[-(len(expected) - 1) :], expected[1:]
    else:
        expected_sizes = expected
    fits = len(compared) == len(expected_sizes) and all(
        isinstance(size, str) or size == arrived for size, arrived in zip(expected_sizes, compared, strict=True)
    )
    if not fits:
        raise ValueError(f"expected an input of shape ({', '.join(map(str, expected))}), got {shape}")
