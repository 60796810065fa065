"""Checkpointed segments run twice and are seen once, with the gradients of the second run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import Lambda, batch, batch_with_grad
from tests.capture.signals import called, has, signals

REENTRANT = pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])


def checkpointed(use_reentrant: bool | None, num_segments: int = 2, dropout: float = 0.0) -> nn.Module:
    """A Linear, then segments of Linear and Tanh, checkpointed or not (None)."""

    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = layers[0](x)
        for segment in layers[1:]:
            x = segment(x) if use_reentrant is None else checkpoint(segment, x, use_reentrant=use_reentrant)
        return x

    segments = (nn.Sequential(nn.Linear(4, 4), nn.Dropout(dropout), nn.Tanh()) for _ in range(num_segments))
    return Lambda(forward, nn.Linear(4, 4), *segments)


@REENTRANT
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_checkpointed_segment_is_seen_as_if_it_were_not_checkpointed(use_reentrant: bool, dropout: float) -> None:
    plain = recording_of(lambda: checkpointed(None, dropout=dropout), batch)
    recording = recording_of(lambda: checkpointed(use_reentrant, dropout=dropout), batch)
    assert called(recording) == called(plain)
    assert signals(recording) == signals(plain)


@REENTRANT
def test_two_checkpointed_segments_may_share_a_module(use_reentrant: bool) -> None:
    def make(use_reentrant: bool | None) -> nn.Module:
        model = checkpointed(use_reentrant, num_segments=3)
        model.layers[2] = model.layers[1]
        return model

    plain = recording_of(lambda: make(None), batch)
    recording = recording_of(lambda: make(use_reentrant), batch)
    assert called(recording) == called(plain)
    assert signals(recording) == signals(plain)


@REENTRANT
def test_nested_checkpoints_are_seen_once(use_reentrant: bool) -> None:
    def make(use_reentrant: bool | None) -> nn.Module:
        inner = checkpointed(use_reentrant)
        if use_reentrant is None:
            return Lambda(lambda layers, x: layers[1](layers[0](x)), nn.Linear(4, 4), inner)
        return Lambda(
            lambda layers, x: checkpoint(layers[1], layers[0](x), use_reentrant=use_reentrant), nn.Linear(4, 4), inner
        )

    plain = recording_of(lambda: make(None), batch)
    recording = recording_of(lambda: make(use_reentrant), batch)
    assert called(recording) == called(plain)
    assert signals(recording, "activation", "weight_gradient") == signals(plain, "activation", "weight_gradient")
    assert signals(recording, "activation_gradient") == signals(plain, "activation_gradient")


@REENTRANT
def test_two_passes_through_a_checkpoint_in_one_recording_are_two_calls(use_reentrant: bool) -> None:
    def twice(case: Case) -> Any:
        return [forward_and_backward(case), forward_and_backward(case)]

    plain = recording_of(lambda: checkpointed(None), batch, step=twice)
    recording = recording_of(lambda: checkpointed(use_reentrant), batch, step=twice)
    assert called(recording) == called(plain)
    assert signals(recording, "activation_gradient") == signals(plain, "activation_gradient")


class Reversible(torch.autograd.Function):
    """Runs modules without a graph, and again, with one, in the backward pass; as Reformer and others do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return x + layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ctx.layer(x).backward(gradient)
        return gradient + x.grad, None


def test_a_forward_inside_a_hand_written_backward_is_not_a_second_call() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers[1:]:
            x = Reversible.apply(layers[0](x) if layer is layers[1] else x, layer)
        return x

    recording = recording_of(lambda: Lambda(forward, *(nn.Linear(4, 4) for _ in range(3))), batch)
    assert called(recording) == ["", "layers.0", "layers.1", "layers.2"]
    assert has(recording, "weight_gradient", "layers.1")


def test_a_module_that_ran_without_a_graph_before_is_not_confused_with_its_checkpointed_run() -> None:
    for use_reentrant in (True, False):

        def forward(layers: nn.ModuleList, x: Tensor, use_reentrant: bool = use_reentrant) -> Tensor:
            with torch.no_grad():
                target = layers[0](x)
            return checkpoint(layers[0], x, use_reentrant=use_reentrant) + target

        recording = recording_of(lambda forward=forward: Lambda(forward, nn.Linear(4, 4)), batch_with_grad)
        assert not has(recording, "activation_gradient", "layers.0", call=0)
        assert has(recording, "activation_gradient", "layers.0", call=1)
        assert [call.output_requires_grad for call in recording.calls] == [True, False, True]
