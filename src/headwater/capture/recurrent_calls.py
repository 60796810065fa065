"""Keeps what the calls of nn.RNN, nn.LSTM and nn.GRU read, and the gradient at what they return, until they are probed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from headwater.capture.noting import Notes
from headwater.capture.observations import ObservedCall

LEAST_STEPS = 5  # a shorter sequence says nothing about a rate
_PARTS_OF_OUTPUT = ("output", "hidden", "cell")
_FUSED_MODES = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU")


@dataclass(slots=True, eq=False)
class RecurrentCall:
    """One call of a fused recurrent module, its tensors in float64.

    Args:
        call: which.
        module: an nn.RNN, nn.LSTM or nn.GRU.
        inputs: the sequence as the module was given it, a tensor or packed.
        states: h_0 and c_0 as they were given: one, two or none.
        gradients: at "output", "hidden" (h_n) and "cell" (c_n), summed over backward passes.
    """

    call: ObservedCall
    module: nn.RNNBase
    inputs: Tensor | PackedSequence
    states: tuple[Tensor, ...]
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def receive(self, part: str, gradient: Tensor) -> None:
        """Adds what arrives at a part of the output in a backward pass."""
        wide = gradient.detach().double()
        known = self.gradients.get(part)
        self.gradients[part] = wide if known is None else known + wide


class RecurrentCalls:
    """Collects the calls of fused recurrent modules. Holds a float64 copy of what they read: only where they are probed.

    Args:
        hook_gradient: calls back with the whole gradient of a tensor.
        notes: of what cannot be kept.
    """

    def __init__(self, hook_gradient: Callable[[Tensor, Any], None], notes: Notes) -> None:
        self.calls: list[RecurrentCall] = []
        self.is_wanted = False
        self._hook_gradient = hook_gradient
        self._notes = notes

    def note(self, call: ObservedCall, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Keeps a call that has just returned, where it is one of a fused recurrent module over enough time steps."""
        module = call.module
        if not self.is_wanted or call.is_second_run or not call.output_requires_grad:
            return
        if not isinstance(module, nn.RNNBase) or module.mode not in _FUSED_MODES:
            return
        try:
            kept = _kept(call, module, *_read(*args, **kwargs))
            parts = _parts(output)
        except Exception as error:  # noqa: BLE001 - a subclass may take and return what it likes
            self._notes[f"The time steps of a {type(module).__name__} were not observed: {error!r:.200}."] = None
            return
        if kept is None:
            return
        self.calls.append(kept)
        for name, tensor in parts.items():
            if tensor.requires_grad:
                self._hook_gradient(tensor, partial(kept.receive, name))

    def clear(self) -> None:
        """Lets go of what was kept."""
        self.calls.clear()


def _read(input: Any, hx: Any = None) -> tuple[Any, tuple[Tensor, ...]]:
    states = () if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
    return input, states


def _kept(call: ObservedCall, module: nn.RNNBase, given: Any, states: tuple[Tensor, ...]) -> RecurrentCall | None:
    if isinstance(given, PackedSequence):
        num_steps, inputs = len(given.batch_sizes), given._replace(data=_wide_copy(given.data))
    else:
        num_steps = given.shape[1 if module.batch_first and given.dim() == 3 else 0]
        inputs = _wide_copy(given)
    return RecurrentCall(call, module, inputs, tuple(map(_wide_copy, states))) if num_steps >= LEAST_STEPS else None


def _wide_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True)


def _parts(output: Any) -> dict[str, Tensor]:
    outputs, states = output
    data = outputs.data if isinstance(outputs, PackedSequence) else outputs
    final = (states,) if isinstance(states, Tensor) else tuple(states)
    return dict(zip(_PARTS_OF_OUTPUT, (data, *final), strict=False))
