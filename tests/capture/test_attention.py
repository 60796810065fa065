"""Attention keeps its fused path; what that path bypasses is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    forward_only,
    recording_of,
)
from tests.capture.signals import called, has, notes


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def sequences() -> Tensor:
    return torch.randn(2, 3, 8, requires_grad=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("step", [forward_and_backward, forward_only])
def test_attention_runs_the_same_and_what_is_bypassed_is_named(training: bool, step: Any) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    recording = recording_of(lambda: Attention().train(training), sequences, step=step)
    assert "'attention.out_proj'" in notes(recording)
    if step is forward_and_backward:
        assert has(recording, "weight_gradient", "attention.out_proj")
        assert has(recording, "input_gradient", "attention") == has(recording, "activation_gradient", "")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_fused_path_of_a_transformer_layer_stays_the_fused_path(mode: Any) -> None:
    def step(case: Case) -> Any:
        with mode():
            return case.model(*case.args)

    recording = recording_of(lambda: encoder_layer().eval(), sequences, step=step)
    assert called(recording) == [""]
    assert "'linear1'" in notes(recording)


def test_a_transformer_layer_in_training_is_observed_inside() -> None:
    recording = recording_of(encoder_layer, sequences)
    assert {"linear1", "linear2", "norm1", "norm2", "dropout", "self_attn"} <= set(called(recording))
