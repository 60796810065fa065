"""Modules that run inside of the model without being part of it: kept in a plain list or dict, they are not trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headwater.capture.observations import ObservedCall


class UnregisteredModules:
    """The modules outside of the model that ran while gradients were on, each with the call that ran it."""

    def __init__(self) -> None:
        self._trained: set[int] = set()
        self._calls: dict[int, tuple[nn.Module, ObservedCall]] = {}  # by id: a module may have an equality of its own

    def note_trained(self, parameters: Iterable[Tensor]) -> None:
        """Says which parameters an optimiser holds: a module of them alone is meant to be where it is."""
        self._trained.update(map(id, parameters))

    def note_call(self, module: nn.Module, caller: ObservedCall) -> None:
        """Notes a module that a call of the model runs. Under `no_grad` it is a teacher: nobody wants to train it."""
        if torch.is_grad_enabled():
            self._calls.setdefault(id(module), (module, caller))

    def num_parameters(self, model: nn.Module) -> dict[tuple[int, str], int]:
        """Elements of the parameters that want a gradient and nobody trains, by id of the caller and type."""
        if not self._calls:
            return {}
        known = self._trained.union(map(id, model.parameters()))
        inner = {id(child) for module, _ in self._calls.values() for child in module.modules() if child is not module}
        found: dict[tuple[int, str], int] = {}
        for module, caller in self._calls.values():
            free = [p for p in module.parameters() if p.requires_grad and id(p) not in known and not is_lazy(p)]
            if free and id(module) not in inner:
                key = (id(caller.module), type(module).__name__)
                found[key] = found.get(key, 0) + sum(parameter.numel() for parameter in free)
        return found
