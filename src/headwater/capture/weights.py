"""Reads every parameter before the pass and its gradient in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headwater.capture.noting import measured_sum
from headwater.capture.observations import Measured
from headwater.capture.observer import PassObserver


@dataclass(slots=True, eq=False)
class WatchedParameter:
    """One parameter, under its first name, and what was measured of it."""

    name: str
    owner: str
    parameter: nn.Parameter
    weight: Measured | None = None
    gradients: list[Measured] = field(default_factory=list)
    received_gradient: bool = False
    had_gradient: bool = False  # before the recording began
    is_hooked: bool = False
    is_accumulating: bool = False  # `.grad` was empty before the first gradient came: it holds their sum
    num_accumulated: int = 0


class WeightWatcher:
    """Measures parameters and their gradients, as they arrive, before they are added to `.grad`.

    So the gradient is that of the observed pass, whatever `.grad` held before. Where several backward passes add up
    in a `.grad` that was empty, the sum, which the optimiser sees, is measured in the end.
    """

    def __init__(self, model: nn.Module, named_modules: list[tuple[str, nn.Module]], observer: PassObserver) -> None:
        self._observer = observer
        self.parameters = [
            WatchedParameter(name, name.rpartition(".")[0], parameter) for name, parameter in model.named_parameters()
        ]
        self._watched = {id(watched.parameter): watched for watched in self.parameters}
        self._owners = {id(module): name for name, module in named_modules}

    def start(self) -> None:
        """Measures the parameters and hooks their gradients."""
        for watched in self.parameters:
            self._begin(watched)

    def stop(self) -> None:
        """Measures what could only be measured when the pass was over."""
        for watched in self.parameters:
            if watched.weight is None and not is_lazy(watched.parameter):
                self._measure_weight(watched)
            gradient = watched.parameter.grad
            if gradient is not None and not watched.received_gradient and not watched.had_gradient:
                # The node that adds to `.grad` was made anew: the model has changed its dtype or device meanwhile.
                self._receive(watched, gradient)
            if watched.is_accumulating and watched.num_accumulated > 1 and gradient is not None:
                total = self._observer.gradients.measured([gradient], f"The gradient of '{watched.name}'")
                if total is not None:
                    watched.gradients = [total]

    def begin_late(self, module: nn.Module) -> None:
        """Starts with what a module that just ran has got since: the shape of a lazy parameter, a new or thawed one."""
        for name, parameter in module._parameters.items():
            if not isinstance(parameter, nn.Parameter):  # None, or what `functional_call` runs the module with
                continue
            watched = self._watched.get(id(parameter))
            if watched is None:
                watched = self._replace(module, name, parameter)
            if not watched.is_hooked:
                self._begin(watched)

    def _replace(self, module: nn.Module, name: str, parameter: nn.Parameter) -> WatchedParameter:
        owner = self._owners[id(module)]
        watched = WatchedParameter(f"{owner}.{name}" if owner else name, owner, parameter)
        self._watched[id(parameter)] = watched
        self.parameters = [known for known in self.parameters if known.name != watched.name] + [watched]
        return watched

    def _begin(self, watched: WatchedParameter) -> None:
        if is_lazy(watched.parameter):
            return
        if watched.weight is None:
            self._measure_weight(watched)
            watched.had_gradient = watched.parameter.grad is not None
        if watched.parameter.requires_grad and not watched.is_hooked and not torch.is_inference_mode_enabled():
            watched.is_hooked = True
            self._observer.gradients.hook_gradient(watched.parameter, partial(self._receive, watched))

    def _measure_weight(self, watched: WatchedParameter) -> None:
        watched.weight = measured_sum([watched.parameter], f"The parameter '{watched.name}'", self._observer.notes)

    def _receive(self, watched: WatchedParameter, gradient: Tensor) -> None:
        if self._observer.a_forward_is_running:
            return
        watched.received_gradient = True
        if watched.parameter.grad is None:
            watched.is_accumulating = True
            watched.num_accumulated = 0
        watched.num_accumulated += 1
        measured = self._observer.gradients.measured([gradient], f"The gradient of '{watched.name}'")
        if measured is not None:
            watched.gradients.append(measured)
