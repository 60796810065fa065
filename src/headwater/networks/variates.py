"""Standard variates of many seeds: one random stream a seed, so that a seed's numbers are the same alone and among others."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float32]

# Numbers from which a second thread is worth its start.
_MIN_NUMBERS_FOR_THREADS = 2**20


def standard_variates(seeds: Sequence[int], sizes: Sequence[int], *, is_uniform: bool) -> list[torch.Tensor]:
    """Float32 variates on the CPU: for each size a tensor (seeds, size), U(-1, 1) or N(0, 1).

    Uniform ones are the bits of NumPy's SFC64 as signed whole numbers times 2**-31: twice as fast as PyTorch's, and a stream that NumPy
    keeps between versions. Normal ones are PyTorch's. Each seed has a stream of its own, so they are drawn on as many threads as PyTorch has.

    Args:
        seeds: whole numbers; what they are modulo 2**64 counts.
        sizes: a seed's stream is cut in this order. The numbers of a part depend on how long it and the parts before it are.
        is_uniform: uniform or normal.

    >>> [part.shape for part in standard_variates([0, 1], [3, 0], is_uniform=True)]
    [torch.Size([2, 3]), torch.Size([2, 0])]
    >>> alone, among = (standard_variates(seeds, [3], is_uniform=False)[0][0] for seeds in ([7], [7, 8]))
    >>> bool((alone == among).all())
    True
    """
    parts = [torch.empty(len(seeds), size) for size in sizes]
    rows = [part.numpy() for part in parts if part.shape[1] > 0]
    draw = _draw_uniform if is_uniform else _draw_normal

    def fill(indices: range) -> None:
        for index in indices:
            draw(seeds[index] % 2**64, [of_seeds[index] for of_seeds in rows])

    num_threads = 1 if len(seeds) * sum(sizes) < _MIN_NUMBERS_FOR_THREADS else torch.get_num_threads()
    if num_threads == 1:
        fill(range(len(seeds)))
        return parts
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(fill, [range(first, len(seeds), num_threads) for first in range(num_threads)]))
    return parts


def _draw_uniform(seed: int, rows: Sequence[FloatArray]) -> None:
    stream = np.random.SFC64(seed)
    for row in rows:
        # 64 bits at a time, since that is what the stream is made of; one number too many where the size is odd.
        bits = stream.random_raw(-(-len(row) // 2))
        # By NumPy: PyTorch would start threads of its own inside of these.
        np.multiply(bits.view(np.int32)[: len(row)], np.float32(2.0**-31), out=row, dtype=np.float32)


def _draw_normal(seed: int, rows: Sequence[FloatArray]) -> None:
    generator = torch.Generator().manual_seed(seed)
    for row in rows:
        torch.from_numpy(row).normal_(generator=generator)
