"""The moments of tensors of every dtype, scale, size and layout against exact rational arithmetic."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headwater.capture import UnmeasurableError, cpu_moments, measure
from headwater.capture.moments import device_moments, measure_sum_lazily, stats_from_vector
from headwater.recording import TensorStats
from tests.oracles.moments import assert_moments_match, exact_moments, exact_norm

CHUNK = 1 << 17  # the kernel reads pieces of this size
SIZES = [0, 1, 2, 3, 7, 8, 9, 255, 2047, 2048, 2049, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 300_000]
KERNELS = ["in pieces", "fused"] if importlib.util.find_spec("numba") is not None else ["in pieces"]
REAL = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
COMPLEX = [torch.complex64, torch.complex128]
DOUBLE = (torch.float64, torch.complex128)


def rtol_of(dtype: torch.dtype) -> float:
    return 1e-12 if dtype in DOUBLE or not (dtype.is_floating_point or dtype.is_complex) else 1e-6


def check(tensor: Tensor) -> None:
    """Checks the moments by numpy, by the compiled kernel where it is installed, and as another device computes them."""
    exact = exact_moments(tensor)
    for kernel in KERNELS:
        with measured_by(kernel):
            assert_moments_match(measure(tensor), exact, rtol=rtol_of(tensor.dtype))
    if tensor.layout is torch.strided:
        on_device = stats_from_vector(device_moments(tensor.detach().resolve_neg().reshape(-1)).tolist())
        assert_moments_match(on_device, exact, rtol=rtol_of(tensor.dtype))


@contextmanager
def measured_by(kernel: str) -> Iterator[None]:
    with cpu_moments.fused_moments_unloaded():
        if kernel == "fused":
            assert cpu_moments.load_fused_moments(at_once=True)
        yield


def normal(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return (torch.randn(*shape, dtype=wide, generator=generator) * scale).to(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX], ids=str)
def test_every_size_around_the_pieces_is_right(dtype: torch.dtype, size: int) -> None:
    check(normal(size, dtype=dtype))


@pytest.mark.parametrize("exponent", range(-38, 39, 4))
@pytest.mark.parametrize("size", [1, 100, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float64], ids=str)
def test_every_scale_of_float32_is_right(dtype: torch.dtype, size: int, exponent: int) -> None:
    tensor = normal(size, dtype=dtype, scale=10.0**exponent)
    check(tensor)
    assert measure(tensor).norm == pytest.approx(exact_norm(exact_moments(tensor)), rel=1e-6)


@pytest.mark.parametrize("exponent", [-323, -310, -300, -200, -100, 100, 200, 300, 307])
@pytest.mark.parametrize("dtype", DOUBLE, ids=str)
def test_every_scale_of_float64_is_right(dtype: torch.dtype, exponent: int) -> None:
    check(normal(200, dtype=dtype, scale=10.0**exponent))


@pytest.mark.parametrize("exponent", [-8, -7, -5, 0, 3, 4])
def test_every_scale_of_float16_is_right(exponent: int) -> None:
    check(normal(3000, dtype=torch.float16, scale=10.0**exponent))


@pytest.mark.parametrize(
    ("dtype", "smallest"),
    [(torch.float32, 2.0**-149), (torch.float64, 5e-324), (torch.bfloat16, 2.0**-133), (torch.float16, 2.0**-24)],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 17, 3000])
def test_subnormals_are_neither_lost_nor_zero(dtype: torch.dtype, smallest: float, size: int) -> None:
    tensor = torch.full((size,), smallest, dtype=torch.float64).to(dtype)
    check(tensor)
    assert measure(tensor).zero_count == 0
    assert measure(tensor).norm > 0


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_subnormals_beside_ordinary_values_are_not_counted_as_zeros(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1.0, torch.finfo(dtype).smallest_normal / 2, 0.0, -0.0], dtype=dtype).repeat(1000)
    check(tensor)
    assert measure(tensor).zero_count == 2000


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_the_largest_values_do_not_overflow(dtype: torch.dtype) -> None:
    check(torch.full((3000,), torch.finfo(dtype).max, dtype=dtype))


@pytest.mark.parametrize("size", [40, 3000, CHUNK + 5])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_not_a_number_and_infinities_are_counted_and_kept_out_of_the_sums(dtype: torch.dtype, size: int) -> None:
    tensor = normal(size, dtype=dtype)
    tensor[1::7], tensor[2::9], tensor[3::11], tensor[4::13] = math.nan, math.inf, -math.inf, 0.0
    check(tensor)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 5, CHUNK - 1, CHUNK, CHUNK + 9])
def test_one_bad_element_anywhere_is_found(value: float, position: int) -> None:
    tensor = torch.zeros(CHUNK + 10)
    tensor[position] = value
    stats = measure(tensor)
    assert stats.nonfinite_count == 1
    assert stats.zero_count == CHUNK + 9


def test_only_bad_elements_leave_empty_moments() -> None:
    stats = measure(torch.tensor([math.nan, math.inf, -math.inf]))
    assert (stats.nan_count, stats.inf_count, stats.finite_count, stats.norm) == (1, 2, 0, 0.0)
    assert math.isnan(stats.mean_abs)


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("size", [6, 3000])
def test_a_complex_number_with_one_bad_part_is_bad(dtype: torch.dtype, size: int) -> None:
    tensor = normal(size, dtype=dtype)
    tensor[0], tensor[1], tensor[2] = complex(math.nan, 1), complex(1, -math.inf), 0
    tensor[3], tensor[4] = complex(math.inf, math.nan), complex(0, 2)
    stats = measure(tensor)
    assert (stats.nan_count, stats.inf_count, stats.zero_count) == (2, 1, 1)
    check(tensor)


@pytest.mark.parametrize(
    "flip", [torch.conj, lambda z: torch.conj(z).imag, lambda z: z.imag], ids=["conj", "neg", "imag"]
)
def test_lazily_conjugated_and_negated_views_are_right(flip: object) -> None:
    check(flip(normal(3000, dtype=torch.complex64)))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.uint16], ids=str
)
@pytest.mark.parametrize("size", [0, 1, 100, 3000, CHUNK + 1])
def test_integers_and_booleans_are_measured_as_numbers(dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    check(torch.randint(0, 100, (size,), generator=generator).to(dtype))


def test_the_most_negative_integer_has_a_positive_absolute_value() -> None:
    check(torch.tensor([torch.iinfo(torch.int64).min, -1, 5]))
    check(torch.tensor([-128, 127, -128], dtype=torch.int8))


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, 10 * CHUNK])
def test_long_sums_of_equal_values_do_not_drift(size: int) -> None:
    stats = measure(torch.full((size,), 0.1))
    tenth = torch.tensor(0.1).double().item()
    assert stats.sum == pytest.approx(size * tenth, rel=1e-6)
    assert stats.sum_abs == pytest.approx(size * tenth, rel=1e-6)
    assert stats.norm == pytest.approx(math.sqrt(size) * tenth, rel=1e-6)


LAYOUTS = {
    "transposed": lambda t: t.t(),
    "every second column": lambda t: t[:, ::2],
    "one column": lambda t: t[:, 3],
    "a scalar": lambda t: t[0, 0],
    "permuted": lambda t: t.reshape(8, 10, -1).permute(2, 0, 1),
    "channels last": lambda t: t.reshape(2, 4, 10, -1).to(memory_format=torch.channels_last),
    "offset": lambda t: t.reshape(-1)[5:],
    "expanded by a new dimension": lambda t: t[None].expand(7, *t.shape),
    "expanded in the middle": lambda t: t[:, None, :].expand(-1, 3, -1),
    "one value expanded": lambda t: t[0, 0].expand(50, 60),
    "one value expanded to nothing": lambda t: t[0, 0].expand(0, 60),
    "expanded and transposed": lambda t: t[:, :1].expand(-1, 9).t(),
    "overlapping windows": lambda t: t.reshape(-1).unfold(0, 5, 2),
    "overlapping by strides": lambda t: t.reshape(-1).as_strided((6, 6), (1, 1)),
    "overlapping and shuffled strides": lambda t: t.reshape(-1).as_strided((3, 4, 5), (1, 3, 2)),
    "a diagonal": lambda t: t.diagonal(),
    "flipped": lambda t: t.flip(0),
    "empty rows": lambda t: t[:0],
    "empty columns": lambda t: t[:, :0].t(),
    "requires grad": lambda t: t.clone().requires_grad_(),
    "a parameter": torch.nn.Parameter,
    "not a leaf": lambda t: t.clone().requires_grad_() * 2,
    "sparse": lambda t: (t * (t > 1)).to_sparse(),
    "sparse with equal indices": lambda t: torch.sparse_coo_tensor(
        [[0, 0, 2], [1, 1, 2]], t.reshape(-1)[:3], (5, 5), check_invariants=True
    ),
    "sparse rows": lambda t: (t * (t > 1)).to_sparse(1),
    "sparse, all zeros": lambda t: torch.zeros_like(t).to_sparse(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_every_layout_is_right(layout: str, dtype: torch.dtype) -> None:
    check(LAYOUTS[layout](normal(80, 40, dtype=dtype)))


@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC) tensor support is in beta state")
@pytest.mark.parametrize("convert", [Tensor.to_sparse_csr, Tensor.to_sparse_csc], ids=["csr", "csc"])
def test_compressed_sparse_layouts_are_right(convert: object) -> None:
    dense = normal(30, 20)
    check(convert(dense * (dense > 1)))


def test_values_cannot_be_read_where_there_are_none() -> None:
    with pytest.raises(UnmeasurableError, match="no values"):
        measure(torch.ones(3, device="meta"))


def test_measuring_changes_nothing() -> None:
    tensor = normal(5000).requires_grad_()
    doubled = tensor * 2
    version, random_state = doubled._version, torch.get_rng_state()
    measure(doubled)
    assert doubled._version == version
    assert doubled.requires_grad
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_modes_around_do_not_matter(mode: object) -> None:
    with mode():
        tensor = normal(5000)
        check(tensor)
    check(tensor)


SUMMANDS = {
    "two": lambda: [normal(5000), normal(5000, seed=1)],
    "three past a piece": lambda: [normal(CHUNK + 7, seed=seed) for seed in range(3)],
    "transposed": lambda: [normal(60, 70).t(), normal(70, 60, seed=1)],
    "expanded": lambda: [normal(1, 70).expand(60, 70), normal(60, 70, seed=1)],
    "double": lambda: [normal(500, dtype=torch.float64), normal(500, dtype=torch.float64, seed=1)],
    "bfloat16": lambda: [normal(500, dtype=torch.bfloat16), normal(500, dtype=torch.bfloat16, seed=1)],
    "complex": lambda: [normal(500, dtype=torch.complex64), normal(500, dtype=torch.complex64, seed=1)],
    "cancelling": lambda: [normal(5000), -normal(5000)],
    "overflowing": lambda: [torch.full((5,), 3e38), torch.full((5,), 3e38)],
    "opposite infinities": lambda: [torch.tensor([math.inf, 1.0]), torch.tensor([-math.inf, 1.0])],
    "empty": lambda: [torch.ones(0), torch.ones(0)],
    "scalars": lambda: [torch.tensor(1.0), torch.tensor(2.0)],
    "require grad": lambda: [normal(50).requires_grad_(), normal(50, seed=1).requires_grad_()],
}  # fmt: skip


@pytest.mark.parametrize("summands", SUMMANDS)
def test_a_sum_of_tensors_is_measured_without_making_it(summands: str) -> None:
    tensors = SUMMANDS[summands]()
    total = sum(tensors[1:], start=tensors[0])
    for kernel in KERNELS:
        with measured_by(kernel):
            stats = measure_sum_lazily(tensors)
            assert isinstance(stats, TensorStats)
            assert_moments_match(stats, total, rtol=rtol_of(total.dtype))


def test_a_user_who_makes_numpy_raise_gets_the_same_statistics() -> None:
    tensors = [torch.tensor([1e-40, 3e38, 0.0]), torch.tensor([1e300, 5e-324]).double(), torch.tensor([1e-30 + 1e30j])]
    with np.errstate(all="raise"):
        for tensor in tensors:
            check(tensor)


any_float32 = st.floats(width=32)
finite_float64 = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(any_float32, max_size=40))
def test_any_float32_values_are_right(values: list[float]) -> None:
    check(torch.tensor(values, dtype=torch.float32))


@given(st.lists(st.floats(), max_size=40))
def test_any_float64_values_are_right(values: list[float]) -> None:
    check(torch.tensor(values, dtype=torch.float64))


@given(st.lists(st.complex_numbers(width=64), max_size=20))
def test_any_complex_values_are_right(values: list[complex]) -> None:
    check(torch.tensor(values, dtype=torch.complex64))


@given(st.lists(any_float32, min_size=1, max_size=12), st.integers(1, 600), st.integers(0, 40))
def test_any_values_repeated_past_the_small_path_are_right(values: list[float], repeats: int, cut: int) -> None:
    check(torch.tensor(values, dtype=torch.float32).repeat(repeats)[cut:])


@given(st.lists(any_float32, max_size=40), st.integers(0, 40))
def test_splitting_and_merging_equals_the_whole(values: list[float], cut: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    merged = measure(tensor[:cut]).merge(measure(tensor[cut:]))
    assert_moments_match(merged, tensor, rtol=1e-12)


@given(st.lists(finite_float64, max_size=20), st.integers(-300, 300))
def test_the_exponents_count_every_finite_element_that_is_not_zero(values: list[float], bound: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    exponents = measure(tensor, exponents=True).exponents
    assert exponents is not None
    assert exponents.total == sum(value != 0 for value in values)
    assert exponents.count_below(bound) == sum(0 < abs(value) < 2.0**bound for value in values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_memory_that_was_freed_is_refused(dtype: torch.dtype) -> None:
    """Sharded training frees a parameter's memory between its uses."""
    tensor = torch.ones(4, dtype=dtype)
    tensor.untyped_storage().resize_(0)
    for kernel in KERNELS:
        with measured_by(kernel), pytest.raises(UnmeasurableError, match="freed"):
            measure(tensor)
