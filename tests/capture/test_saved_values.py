"""Saved values come back bit for bit, and only to what has changed."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from headwater.capture import Problem, observe
from headwater.capture.saved_values import SavedValues

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool]


def bits(tensor: Tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_was_overwritten_behind_the_version_comes_back(dtype: torch.dtype) -> None:
    tensors = [(torch.randn(shape) > 0).to(dtype) for shape in ((), (1,), (3, 5), (0, 4), (7,))]
    before = [bits(tensor) for tensor in tensors]
    saved = SavedValues(tensors)
    for tensor in tensors:
        tensor.data.copy_(tensor.logical_not())
    saved.put_back()
    assert [bits(tensor) for tensor in tensors] == before


def test_the_sign_of_a_zero_comes_back() -> None:
    tensor = torch.zeros(3)
    saved = SavedValues([tensor])
    tensor.data.neg_()
    saved.put_back()
    assert [math.copysign(1.0, value) for value in tensor.tolist()] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_what_has_not_changed_is_not_written_to(value: float) -> None:
    tensor = torch.full((4, 4), value)
    saved = SavedValues([tensor])
    saved.put_back()
    assert tensor._version == 0


def test_strides_views_and_shared_memory_come_back() -> None:
    memory = torch.arange(24.0)
    tensors = [memory[:8], memory[4:12], memory.view(4, 6).T, memory[::2], torch.ones(1).expand(5)]
    before = [tensor.tolist() for tensor in tensors]
    saved = SavedValues(tensors[:4])
    memory.data.add_(1.0)
    saved.put_back()
    assert [tensor.tolist() for tensor in tensors] == before


def test_a_tensor_with_other_memory_gets_its_values_back() -> None:
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    saved = SavedValues([weight])
    weight.data = torch.zeros(3, 2).T
    saved.put_back()
    assert weight.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_a_model_that_flips_the_sign_of_its_zeros_is_put_back() -> None:
    class Flips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            nn.init.zeros_(self.layer.bias)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            self.layer.bias.data.neg_()
            return y

    model = Flips()
    before = copy.deepcopy(model.state_dict())
    observe(Problem(model, torch.ones(2, 2)))
    assert {name: bits(value) for name, value in model.state_dict().items()} == {
        name: bits(value) for name, value in before.items()
    }


@pytest.mark.parametrize("change", ["resize_", "data", "dtype"])
def test_what_has_another_shape_or_dtype_gets_its_own_again(change: str) -> None:
    class Resizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("mask", torch.arange(3.0))
            self.register_buffer("later", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            if change == "resize_":
                self.mask.resize_(5).zero_()
            else:
                self.mask.data = torch.zeros(5) if change == "data" else self.mask.double()
            self.later += 1
            return self.layer(x)

    model = Resizes()
    mask = model.mask
    observe(Problem(model, torch.ones(2, 2)))
    assert model.mask is mask
    assert mask.dtype is torch.float32
    assert mask.tolist() == [0.0, 1.0, 2.0]
    assert model.later.tolist() == [0.0, 0.0]


KEPT = {
    "sparse": lambda: torch.eye(2).to_sparse(),
    "compressed": lambda: torch.eye(2).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "meta": lambda: torch.ones(2, device="meta"),
}


@pytest.mark.filterwarnings("ignore:.*(beta state|prototype stage):UserWarning")
@pytest.mark.parametrize("kind", ["sparse", "compressed", "nested", "meta"])
def test_a_module_may_keep_a_tensor_that_torch_cannot_compare(kind: str) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("kept", KEPT[kind]())

        def forward(self, x: Tensor) -> Tensor:
            if kind == "sparse":
                self.kept.mul_(2.0)
            return self.layer(x)

    model = Keeps()
    observe(Problem(model, torch.ones(2, 2)), samples=None)
    if kind == "sparse":
        assert model.kept.to_dense().tolist() == [[1.0, 0.0], [0.0, 1.0]]
