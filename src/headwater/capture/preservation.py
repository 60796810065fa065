"""Puts a model, its gradients and every random generator back to what they were, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.capture import torch_internals
from headwater.capture.saved_values import SavedValues

_CONTAINERS = (dict, list, set)  # that can be changed


@contextmanager
def preserved(*models: nn.Module) -> Iterator[None]:
    """Inside, the models may run and be differentiated; afterwards nothing of them has changed, also on an exception.

    Kept: values of parameters and buffers, `.grad` (the same tensors), training flags and all other attributes
    of every module (dicts, lists, sets and tuples in them too, and the tensors in those), and the random states of torch on every device, `random` and
    numpy. The users' post-accumulate hooks do not run inside: an optimiser that steps in them would train the model.
    Costs one copy of the parameters and buffers.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states_preserved())
        modules = list(dict.fromkeys(module for model in models for module in model.modules()))
        attributes = [list(vars(module).values()) for module in modules]
        containers = _containers(attributes)
        stack.enter_context(_attributes_preserved(modules, containers))
        stack.enter_context(_values_preserved([*attributes, *map(_values, containers)]))
        parameters = list(
            dict.fromkeys(parameter for module in modules for parameter in module.parameters(recurse=False))
        )
        stack.enter_context(gradients_preserved(parameters))
        stack.enter_context(torch_internals.without_post_accumulate_hooks(parameters))
        yield


@contextmanager
def gradients_preserved(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Inside, every `.grad` starts empty; afterwards each is the tensor, or the None, that it was."""
    gradients = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        yield
    finally:
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient


@contextmanager
def _random_states_preserved() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cuda_devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda_devices), torch_internals.waiting_seeds_preserved():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def _values_preserved(held: Iterable[Iterable[Any]]) -> Iterator[None]:
    """Of parameters and buffers, and of what else is held, at any level: masks, statistics and caches that are no buffers."""
    saved = SavedValues(dict.fromkeys(value for values in held for value in values if isinstance(value, Tensor)))
    try:
        yield
    finally:
        saved.put_back()


@contextmanager
def _attributes_preserved(modules: list[nn.Module], containers: list[Any]) -> Iterator[None]:
    saved = [dict(vars(module)) for module in modules]
    containers = [container for container in containers if isinstance(container, _CONTAINERS)]
    empty = [container for container in containers if not container]  # most are: the hooks of most modules
    filled = [(container, _contents(container)) for container in containers if container]
    try:
        yield
    finally:
        for module, attributes in zip(modules, saved, strict=True):
            _put_back(vars(module), attributes)
        for container in empty:
            if container:
                container.clear()
        for container, contents in filled:
            _refill(container, contents)


def _containers(nested: list[Any]) -> list[Any]:
    """The dicts, lists, sets and tuples in a list, at any level, each once."""
    found: dict[int, Any] = {}
    unread = list(nested)
    while unread:
        for value in unread.pop():
            if isinstance(value, (*_CONTAINERS, tuple)) and id(value) not in found:
                found[id(value)] = value
                if value:
                    unread.append(_values(value))
    return list(found.values())


def _values(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _put_back(current: dict[str, Any], before: dict[str, Any]) -> None:
    if list(current) == list(before) and all(map(is_, current.values(), before.values())):
        return
    current.clear()
    current.update(before)


def _contents(container: Any) -> tuple[list[Any], ...]:
    return (list(container), list(container.values())) if isinstance(container, dict) else (list(container),)


def _refill(container: Any, contents: tuple[list[Any], ...]) -> None:
    # What has not changed is left alone: it may be a dict that refuses changes.
    if all(len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(_contents(container), contents, strict=True)):
        return
    if isinstance(container, list):
        container[:] = contents[0]
    else:
        container.clear()
        container.update(zip(*contents, strict=True) if isinstance(container, dict) else contents[0])
