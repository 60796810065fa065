"""Tensors that want a gradient and that a module keeps as plain attributes: `parameters()` does not know them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn
from torch.autograd.graph import Node

from headwater.capture import torch_internals
from headwater.recording import Combine, Series

UNTRAINED_IN_LOSS = "num_untrained_elements_of_the_loss"
UNREGISTERED_TENSORS = "num_unregistered_elements"  # of a module's attribute: a tensor that no optimiser is given
_OF_THE_MODULE = ("_parameters", "_modules")
# Most attributes of most modules are flags, numbers and empty registries of hooks.
_HOLD_NOTHING = frozenset((bool, int, float, str, type(None)))
_CONTAINERS = frozenset((dict, OrderedDict, set, list, tuple))


class LooseTensor(NamedTuple):
    """One such tensor.

    Args:
        module: path of the module that keeps it.
        attribute: as code names it: "w", "ws[0]", "tables['a']".
        tensor: that requires a gradient.
        leaves: of autograd's graph: what it was computed from (`nn.Parameter(...) * 0.1`), or the tensor itself.
    """

    module: str
    attribute: str
    tensor: Tensor
    leaves: Sequence[Tensor]


def loose_tensors(model: nn.Module) -> list[LooseTensor]:
    """What requires a gradient, comes of no parameter of the model, and is kept in an attribute, list, tuple or dict of a module.

    >>> layer = nn.Linear(2, 1)
    >>> import torch
    >>> layer.w = torch.ones(3, requires_grad=True)
    >>> [(found.module, found.attribute) for found in loose_tensors(nn.Sequential(layer))]
    [('0', 'w')]
    """
    registered = {id(parameter) for parameter in model.parameters()}
    kept: dict[int, tuple[str, str, Tensor]] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if (
                type(value) in _HOLD_NOTHING
                or attribute in _OF_THE_MODULE
                or (type(value) in _CONTAINERS and not value)
            ):
                continue
            for place, tensor in _tensors(attribute, value):
                if tensor.requires_grad and id(tensor) not in registered:
                    kept.setdefault(id(tensor), (name, place, tensor))
    # What is computed from a kept leaf (hidden states of an earlier pass) is not the fault: the leaf is.
    named = registered | {number for number, (_, _, tensor) in kept.items() if tensor.is_leaf}
    known: dict[Node, Mapping[int, Tensor] | None] = {}
    found: list[LooseTensor] = []
    for name, place, tensor in kept.values():
        leaves = {id(tensor): tensor} if tensor.grad_fn is None else _leaves(tensor.grad_fn, named, known)
        if leaves:
            found.append(LooseTensor(name, place, tensor, list(leaves.values())))
    return found


def _leaves(
    root: Node, named: Collection[int], known: dict[Node, Mapping[int, Tensor] | None]
) -> Mapping[int, Tensor] | None:
    """The leaves that a tensor was computed from, by their ids; None where one of them has a name already.

    Args:
        root: autograd's node that made the tensor.
        named: ids of leaves.
        known: the same of other tensors, by their roots; gets this one. So all states of a loop cost no more than the last one.
    """
    leaves: dict[int, Tensor] = {}
    stack, seen = [root], {root}
    while stack:
        node = stack.pop()
        earlier = known.get(node, {})
        new = torch_internals.leaf_of(node)
        if earlier is None or id(new) in named:
            known[root] = None
            return None
        leaves.update(earlier if new is None else {id(new): new})
        before = [] if node in known else [made_by for made_by, _ in node.next_functions if made_by is not None]
        stack += [made_by for made_by in dict.fromkeys(before) if made_by not in seen]
        seen.update(before)
    known[root] = leaves
    return leaves


def untrained(loose: Sequence[LooseTensor], leaves: Iterable[Tensor], trained: Iterable[Tensor]) -> list[Series]:
    """The number of elements of each loose tensor that a gradient reaches and that nobody trains.

    Args:
        loose: kept before the pass; what a forward pass stores on itself is its own affair.
        leaves: what the backward pass adds gradients to.
        trained: what an optimiser holds.
    """
    reached, held = set(map(id, leaves)), set(map(id, trained))
    return [
        Series(
            UNREGISTERED_TENSORS, one.module, -1, one.attribute, Combine.MAXIMUM, np.array([float(one.tensor.numel())])
        )
        for one in loose
        if any(id(leaf) in reached for leaf in one.leaves) and not any(id(leaf) in held for leaf in one.leaves)
    ]


def untrained_in_loss(loss: object, leaves: Iterable[Tensor], trained: Iterable[Tensor]) -> list[Series]:
    """The number of elements of each parameter of a loss (a centre, a temperature) that a gradient reaches and the optimiser does not hold.

    Args:
        loss: the loss function, perhaps a module.
        leaves: what the backward pass adds gradients to.
        trained: what the optimiser holds.
    """
    if not isinstance(loss, nn.Module):
        return []
    reached, held = set(map(id, leaves)), set(map(id, trained))
    return [
        Series(UNTRAINED_IN_LOSS, "", -1, name, Combine.MAXIMUM, np.array([float(parameter.numel())]))
        for name, parameter in loss.named_parameters()
        if id(parameter) in reached and id(parameter) not in held
    ]


def _tensors(place: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Of an attribute, or of a list or dict that it is: not of lists in lists."""
    if place == "_buffers":
        yield from ((name, buffer) for name, buffer in value.items() if isinstance(buffer, Tensor))
    elif isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, list | tuple):
        yield from ((f"{place}[{i}]", item) for i, item in enumerate(value) if isinstance(item, Tensor))
    elif isinstance(value, Mapping):
        yield from ((f"{place}[{key!r}]", item) for key, item in value.items() if isinstance(item, Tensor))
