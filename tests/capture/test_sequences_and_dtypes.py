"""Packed sequences, every dtype, size and memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import Lambda, batch
from tests.capture.signals import has, stats
from tests.oracles.moments import assert_moments_match


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_observed(kind: Any, bidirectional: bool) -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(layers[0](x), torch.tensor([5, 3, 2]), batch_first=True)
        output, _ = layers[1](packed)
        assert isinstance(output, PackedSequence)
        return layers[2](pad_packed_sequence(output, batch_first=True)[0])

    def make() -> nn.Module:
        width = 6 if bidirectional else 3
        recurrent = kind(4, 3, num_layers=2, batch_first=True, bidirectional=bidirectional)
        return Lambda(forward, nn.Linear(4, 4), recurrent, nn.Linear(width, 1))

    recording = recording_of(make, lambda: torch.randn(3, 5, 4))
    assert has(recording, "activation_gradient", "layers.1")
    assert has(recording, "input_gradient", "layers.1")
    assert len(recording.select("weight_gradient", module="layers.1")) == (16 if bidirectional else 8)


def test_cells_that_run_step_by_step_are_numbered() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        state = (x.new_zeros(2, 3), x.new_zeros(2, 3))
        for column in x.unbind(1):
            state = layers[0](column, state)
        return state[0]

    recording = recording_of(lambda: Lambda(forward, nn.LSTMCell(4, 3)), lambda: torch.randn(2, 5, 4))
    assert [call.call for call in recording.calls if call.module == "layers.0"] == list(range(5))
    assert all(has(recording, "activation_gradient", "layers.0", call) for call in range(5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_models_of_every_floating_dtype_are_observed(dtype: torch.dtype) -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)).to(dtype),
        lambda: torch.randn(5, 4).to(dtype),
    )
    assert {signal.dtype for signal in recording} == {str(dtype).removeprefix("torch.")}
    assert len(recording.select("weight_gradient")) == 6


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_complex_models_are_observed() -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(torch.complex64),
        lambda: torch.randn(5, 4, dtype=torch.complex64),
    )
    assert {signal.dtype for signal in recording} == {"complex64"}
    assert has(recording, "activation_gradient", "0")


def test_autocast_is_observed_in_the_dtype_that_it_chose() -> None:
    def step(case: Case) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward_and_backward(case)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), batch, step=step)
    assert {signal.dtype for signal in recording.select("activation", module="0")} == {"bfloat16"}
    assert {signal.dtype for signal in recording.select("weight_gradient")} == {"float32"}


def test_an_embedding_with_sparse_gradients_is_observed() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Linear(4, 2))

    models: list[nn.Module] = []

    def step(case: Case) -> Any:
        models.append(case.model)
        return forward_and_backward(case)

    recording = recording_of(make, lambda: torch.randint(0, 50, (3, 5)), step=step)
    gradient = models[-1][0].weight.grad
    assert gradient.is_sparse
    assert_moments_match(stats(recording, "weight_gradient", "0"), gradient, rtol=1e-6)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_an_embedding_bag_is_observed(mode: str) -> None:
    recording = recording_of(lambda: nn.EmbeddingBag(20, 4, mode=mode), lambda: torch.randint(0, 20, (3, 5)))
    assert has(recording, "weight_gradient", "")


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (1, 4)], ids=str)
def test_empty_batches_are_observed(shape: tuple[int, ...]) -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), lambda: torch.randn(shape)
    )
    assert stats(recording, "activation", "0").numel == torch.Size(shape).numel() // 4 * 3


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
def test_layers_without_units_are_observed() -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 2)), batch)
    assert stats(recording, "weight_gradient", "0", item="weight").numel == 0
    assert stats(recording, "activation", "1").numel == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last),
        lambda: torch.randn(2, 8, 8, 3).permute(0, 3, 1, 2),
        lambda: torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1),
        lambda: torch.randn(4, 3, 16, 16)[::2, :, ::2, 1::2],
        lambda: torch.randn(2, 3, 8, 8).flip(1),
    ],
    ids=["channels last", "permuted", "expanded", "strided", "flipped"],
)
def test_every_memory_layout_of_an_input_is_observed(make: Callable[[], Tensor]) -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), make)
    torch.manual_seed(0)
    nn.Conv2d(3, 4, 3)
    assert_moments_match(stats(recording, "input", "0"), make(), rtol=1e-6)


def test_values_that_are_not_finite_are_recorded_where_they_first_appear() -> None:
    class Divides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / torch.zeros(3)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), Divides(), nn.Linear(3, 2)), batch)
    assert stats(recording, "activation", "0").nonfinite_count == 0
    assert stats(recording, "activation", "1").inf_count == 15
    assert stats(recording, "activation", "2").nonfinite_count == 10
