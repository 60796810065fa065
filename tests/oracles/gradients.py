"""Gradients at every call of a model, by `retain_grad` and by differentiating each call again, alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class SeenCall:
    """One call of one module, with the tensors that it read and returned."""

    module: str
    call: int
    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def seen_calls(model: nn.Module, run: Callable[[], Tensor]) -> list[SeenCall]:
    """Every call of one pass, in the order in which they return, with `.grad` on each tensor of their outputs.

    Not for models that work in place or draw random numbers.
    """
    calls: list[SeenCall] = []
    counts: dict[str, int] = {}
    names = {module: name for name, module in model.named_modules()}

    def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for tensor in tensors_of(output):
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.retain_grad()
        name = names[layer]
        calls.append(SeenCall(name, counts.get(name, 0), layer, args, kwargs, output))
        counts[name] = counts.get(name, 0) + 1

    handles = [module.register_forward_hook(look, with_kwargs=True) for module in model.modules()]
    loss = run()
    for handle in handles:
        handle.remove()
    loss.backward()
    return calls


def input_gradients(seen: SeenCall) -> list[tuple[Tensor, Tensor | None]]:
    """Each distinct tensor that a call read, with the gradient that this call alone sends to it; None for none.

    The call is run again on copies of its inputs and differentiated with the gradients that had arrived at its outputs.
    """
    originals = list({id(t): t for t in tensors_of((seen.args, seen.kwargs)) if t.is_floating_point()}.values())
    fresh = {id(t): t.detach().clone().requires_grad_(t.requires_grad) for t in originals}
    args, kwargs = _replaced((seen.args, seen.kwargs), fresh)
    layer = copy.deepcopy(seen.layer)
    outputs = list(tensors_of(layer(*args, **kwargs)))
    pairs = [
        (again, first.grad)
        for again, first in zip(outputs, tensors_of(seen.output), strict=True)
        if again.requires_grad and first.grad is not None
    ]
    wanted = [t for t in fresh.values() if t.requires_grad]
    gradients: list[Tensor | None] = [None] * len(wanted)
    if pairs and wanted:
        tensors, cotangents = zip(*pairs, strict=True)
        gradients = list(torch.autograd.grad(tensors, wanted, cotangents, allow_unused=True))
    by_copy = {id(t): gradient for t, gradient in zip(wanted, gradients, strict=True)}
    # A tensor that the call hands on as it is: all that arrives at it later has passed through the call.
    passed_on = {id(tensor) for tensor in tensors_of(seen.output)}
    return [
        (original, original.grad if id(original) in passed_on else by_copy.get(id(fresh[id(original)])))
        for original in originals
    ]


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts, each once."""
    seen: set[int] = set()
    for tensor in _all_tensors(value):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def _all_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _all_tensors(item)
    elif isinstance(value, dict):
        yield from _all_tensors(list(value.values()))


def _replaced(value: Any, fresh: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return fresh.get(id(value), value)
    if isinstance(value, tuple | list):
        return type(value)(_replaced(item, fresh) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, fresh) for key, item in value.items()}
    return value
