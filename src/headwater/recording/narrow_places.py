"""The places in a graph of operations that everything on its way to one of them goes through."""

from __future__ import annotations

import math
from collections.abc import Sequence


def narrow_places(producers: Sequence[Sequence[int]], target: int) -> list[int]:
    """Indices of the operations that every way from where nobody reads to the target goes through, the target last.

    In time linear in the edges: an operation is one of them where no edge passes it by.

    Args:
        producers: for each operation, the indices of those it reads from, all smaller than its own.
        target: index of an operation.

    >>> narrow_places([[], [0], [1, 0], [2]], 0)
    [3, 2, 0]
    """
    leading = leading_to(producers, target)
    is_read = [False] * len(producers)
    for operation in range(target, len(producers)):
        if leading[operation]:
            for producer in producers[operation]:
                is_read[producer] = True
    num_roots_left = sum(leads and not read for leads, read in zip(leading, is_read, strict=True))
    narrow: list[int] = []
    lowest_passing = math.inf  # the furthest that an edge seen so far leads
    for index in range(len(producers) - 1, target - 1, -1):
        if not leading[index]:
            continue
        num_roots_left -= not is_read[index]
        if lowest_passing >= index and not num_roots_left:
            narrow.append(index)
        for producer in producers[index]:
            if producer < lowest_passing and index != target and leading[producer]:
                lowest_passing = producer
    return narrow


def leading_to(producers: Sequence[Sequence[int]], target: int) -> list[bool]:
    """For each operation, whether there is a way from it to the target.

    >>> leading_to([[], [], [0]], 0)
    [True, False, True]
    """
    leads = [False] * len(producers)
    leads[target] = True
    for index in range(target + 1, len(producers)):
        for producer in producers[index]:
            if leads[producer]:
                leads[index] = True
                break
    return leads
