"""A model as a function from one tensor in it to another: its input, or what some module returns, to its output, or what another one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headwater.capture import ProblemError
from headwater.capture.passes import arguments_of, called
from headwater.capture.random_states import reseeded
from headwater.capture.structure import map_tensors, named_tensors

Replace = Callable[[Tensor], Tensor]  # the tensor that was there, and the one that takes its place
Place = str | tuple[str, int]  # a module's path, perhaps with the number of the call


@dataclass(frozen=True, slots=True)
class TensorFunction:
    """What lies between two places of a model that runs on given inputs.

    Where a place holds several tensors, the first one with floating-point numbers is meant.

    Args:
        model: the network, as it is: in training or evaluation mode.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        layer: the module whose output is the variable, or (module, number of the call, from 0); None for the model's input.
        output: the module whose output is the value, the same with a number, a function of the model's output, or None for that
            output itself.
        seed: of the random generators, at the start of each run.
    """

    model: nn.Module
    inputs: Any
    layer: Place | None = None
    output: Place | Callable[[Any], Tensor] | None = None
    seed: int = 0

    def run(self, replace: Replace) -> Tensor:
        """The value, with what `replace` returns in the place of the variable.

        Raises:
            ProblemError: the model cannot be run, or there is no such place in it.

        >>> import torch
        >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Flatten())
        >>> TensorFunction(layers, torch.ones(1, 2), layer="0").run(torch.zeros_like)
        tensor([[0., 0.]])
        """
        found: list[Tensor] = []
        args, kwargs = arguments_of(self.inputs)
        if self.layer is None:
            args, kwargs = self._with_input(args, kwargs, replace)
        with self._hooked(replace, found), sdpa_kernel([SDPBackend.MATH]):
            reseeded(self.seed)
            result = called("the model failed on its inputs", self.model, *args, **kwargs)
        if callable(self.output):
            return called("output= failed on the model's output", self.output, result)
        if self.output is None:
            return _first_floating(result, "the model's output")
        return found[0]

    def _with_input(self, args: Any, kwargs: Any, replace: Replace) -> tuple[Any, Any]:
        floating = [tensor for _, tensor in named_tensors((args, kwargs)) if tensor.is_floating_point()]
        if len(floating) != 1:
            raise ProblemError(
                f"expected one floating-point tensor among the inputs to differentiate by, got {len(floating)}; "
                "name the module whose output is meant with layer="
            )
        return map_tensors((args, kwargs), lambda tensor: replace(tensor) if tensor is floating[0] else tensor)

    @contextmanager
    def _hooked(self, replace: Replace, found: list[Tensor]) -> Iterator[None]:
        handles, places = [], []
        try:
            if self.layer is not None:
                places.append(_CallHook(self.layer, lambda output, where: _replaced(output, replace, where)))
            if isinstance(self.output, str | tuple):
                places.append(
                    _CallHook(self.output, lambda output, where: found.append(_first_floating(output, where)))
                )
            handles = [_module(self.model, place.module).register_forward_hook(place) for place in places]
            yield
            for place in places:
                place.check_it_ran()
        finally:
            for handle in handles:
                handle.remove()


class _CallHook:
    """A forward hook that acts in one call of its module."""

    def __init__(self, place: Place, action: Callable[[Any, str], Any]) -> None:
        self.module, self._wanted = (place, 0) if isinstance(place, str) else place
        self._action, self._calls = action, 0

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        self._calls += 1
        if self._calls - 1 == self._wanted:
            return self._action(output, f"the output of '{self.module}'")
        return None

    def check_it_ran(self) -> None:
        if self._calls <= self._wanted:
            raise ProblemError(
                f"module '{self.module}' ran {self._calls} times, and call {self._wanted} (from 0) was asked for; "
                "name one that runs in this forward pass"
            )


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in model.named_modules() if name]
        raise ProblemError(f"the model has no module '{path}'; it has {_listed(names)}") from None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown or "none"


def _first_floating(value: Any, where: str) -> Tensor:
    for _, tensor in named_tensors(value):
        if tensor.is_floating_point():
            return tensor
    raise ProblemError(f"expected a floating-point tensor in {where}, got {type(value).__name__}")


def _replaced(value: Any, replace: Replace, where: str) -> Any:
    first = _first_floating(value, where)
    changed = map_tensors(value, lambda tensor: replace(tensor) if tensor is first else tensor)
    if any(tensor is first for _, tensor in named_tensors(changed)):
        raise ProblemError(
            f"{where} is a {type(value).__name__}, in which no tensor can be replaced; name a module that returns a tensor, a tuple or a dict"
        )
    return changed
