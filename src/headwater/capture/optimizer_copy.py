"""Takes an optimiser's next step on copies: neither the optimiser nor a parameter is touched, and no hook runs."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from headwater.capture import torch_internals

# A scheduler, a compiler or a user may have put a `step` on the object itself, which is bound to that object.
_OF_THE_OBJECT_ITSELF = ("step",)


class StepError(RuntimeError):
    """The next step cannot be taken on a copy; the message completes "was not observed: "."""


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """The optimiser's parameters in the order of its groups, each once.

    >>> import torch
    >>> [tuple(p.shape) for p in parameters_of(torch.optim.SGD(nn.Linear(3, 2).parameters()))]
    [(2, 3), (2,)]
    """
    return list({id(p): p for group in optimizer.param_groups for p in group["params"]}.values())


def stepped_copies(optimizer: Optimizer, live: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The values that `optimizer.step()` would give its parameters, as new tensors, by the id of the parameter.

    The copy has the class of the optimiser, copies of all that it holds, and none of its hooks; process-wide hooks do not
    run either. What is done outside of the optimiser, such as clipping, is not part of the step.

    Args:
        optimizer: any optimiser, with a state or without.
        live: the tensors whose `.grad` to step with, by the id of the parameter; all other gradients are None.

    Raises:
        StepError: `step` needs a closure, or something in the optimiser cannot be copied, or the step fails.

    >>> import torch
    >>> weight = nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.ones(2)
    >>> stepped_copies(torch.optim.SGD([weight], 0.5), {id(weight): weight})[id(weight)].detach(), weight.detach()
    (tensor([0.5000, 0.5000]), tensor([1., 1.]))
    """
    if _needs_a_closure(type(optimizer)):
        raise StepError("it runs the model again (step() needs a closure)")
    try:
        stepped, copies = _copy(optimizer, live)
        with torch_internals.without_optimizer_hooks():
            type(optimizer).step(stepped)
    except Exception as error:
        raise StepError(f"{type(error).__name__}: {str(error).strip() or 'no message':.200}") from error
    return {key: copied.detach() for key, copied in copies.items()}


def _needs_a_closure(kind: type[Optimizer]) -> bool:
    try:
        _, *arguments = inspect.signature(kind.step).parameters.values()
    except (TypeError, ValueError):  # nothing is known: try it
        return False
    return any(
        argument.default is argument.empty and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
        for argument in arguments
    )


def _copy(optimizer: Optimizer, live: Mapping[int, Tensor]) -> tuple[Optimizer, dict[int, Tensor]]:
    """The optimiser's copy, and the copies of its parameters by the id of the parameter."""
    stepped: Any = object.__new__(type(optimizer))
    memo: dict[int, Any] = {id(optimizer): stepped}
    copies: dict[int, Tensor] = {}
    for parameter in parameters_of(optimizer):
        source = live.get(id(parameter))
        if not is_lazy(parameter if source is None else source):
            copies[id(parameter)] = memo[id(parameter)] = _copied_parameter(parameter, source, memo)
    attributes = {name: value for name, value in vars(optimizer).items() if name not in _OF_THE_OBJECT_ITSELF}
    hooks = {name: OrderedDict() for name in attributes if name.startswith("_optimizer_") and name.endswith("_hooks")}
    # `deepcopy` of the object would go through __getstate__, which forgets what a subclass has added.
    vars(stepped).update(copy.deepcopy(attributes | hooks, memo))
    return stepped, copies


def _copied_parameter(parameter: Tensor, source: Tensor | None, memo: dict[int, Any]) -> Tensor:
    values = (parameter if source is None else source).detach().clone()
    if isinstance(parameter, nn.Parameter):
        copied: Tensor = nn.Parameter(values, requires_grad=parameter.requires_grad)
    else:
        copied = values.requires_grad_(parameter.requires_grad)
    vars(copied).update(copy.deepcopy(vars(parameter), memo))  # marks that an optimiser may look for
    if source is not None and source.grad is not None:
        copied.grad = source.grad.detach().clone()  # steps may change it in place
    return copied
