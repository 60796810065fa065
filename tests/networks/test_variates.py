from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headwater.networks import variates
from headwater.networks.variates import standard_variates


def test_uniform_variates_are_the_bits_of_sfc64_as_signed_fractions():
    bits = np.random.SFC64(5).random_raw(3).view(np.int32)
    (found,) = standard_variates([5], [5], is_uniform=True)
    assert found[0].tolist() == (bits[:5] / 2.0**31).astype(np.float32).tolist()


@pytest.mark.parametrize(("is_uniform", "variance", "fourth_moment"), [(True, 1 / 3, 1 / 5), (False, 1.0, 3.0)])
def test_moments_are_those_of_the_distribution(is_uniform, variance, fourth_moment):
    (found,) = standard_variates(range(40), [25_000], is_uniform=is_uniform)
    numbers = found.double()
    error = 4.0 / math.sqrt(numbers.numel())  # four standard errors, and the variance of x⁴ is 96 at most
    assert abs(float(numbers.mean())) < error
    assert float(numbers.square().mean()) == pytest.approx(variance, abs=2 * error)
    assert float(numbers.pow(4).mean()) == pytest.approx(fourth_moment, abs=10 * error)
    neighbours = numbers[:-1] * numbers[1:]  # seeds that follow one another are independent
    assert abs(float(neighbours.mean())) < error


@pytest.mark.parametrize("is_uniform", [True, False])
def test_a_seed_has_the_same_numbers_on_one_thread_and_on_several(is_uniform, monkeypatch):
    seeds, sizes = [3, 1, 4, 15, -9], [7, 0, 64]
    serial = standard_variates(seeds, sizes, is_uniform=is_uniform)
    monkeypatch.setattr(variates, "_MIN_NUMBERS_FOR_THREADS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    parallel = standard_variates(seeds, sizes, is_uniform=is_uniform)
    assert all(torch.equal(one, other) for one, other in zip(serial, parallel, strict=True))


@pytest.mark.parametrize("is_uniform", [True, False])
def test_any_whole_number_is_a_seed(is_uniform):
    seeds = [0, -1, 2**64 - 1, 2**70 + 5, 5]
    (found,) = standard_variates(seeds, [16], is_uniform=is_uniform)
    assert torch.equal(found[1], found[2])
    assert torch.equal(found[3], found[4])
    assert not torch.equal(found[0], found[1])
