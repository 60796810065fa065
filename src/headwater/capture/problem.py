"""A problem: the model whose gradient is asked about, with what it takes to run one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer


class ProblemError(ValueError):
    """A problem cannot be run; the message says in one sentence what was expected, what arrived and what to do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A model and one batch, as `headwater diagnose` and `diagnose` take them.

    Args:
        model: the network.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        targets: second argument of the loss, if it takes one.
        loss: `loss(output, targets)`, or `loss(output)` without targets. Without a loss, the output is the loss if it
            is a scalar, `output.loss` is if there is one, and random cotangents are used otherwise.
        optimizer: the optimiser that will train the model.

    Raises:
        ProblemError: the model is no module or has nothing to train, or an argument has the wrong type (an iterator among the inputs too).
    """

    model: nn.Module
    inputs: Any
    targets: Any = None
    loss: Callable[..., Any] | None = None
    optimizer: Optimizer | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ProblemError(f"expected the model to be a torch.nn.Module, got {_described(self.model)}")
        parameters = list(self.model.parameters())
        if not parameters:
            raise ProblemError(
                f"the model {type(self.model).__name__} has no parameters, so there is no gradient to follow; "
                "register its layers as attributes or in an nn.ModuleList"
            )
        if not any(parameter.requires_grad for parameter in parameters):
            raise ProblemError(
                f"every parameter of {type(self.model).__name__} is frozen; "
                "call requires_grad_(True) on those that shall be trained"
            )
        if any(isinstance(value, Iterator) for value in (self.inputs, *_values(self.inputs), self.targets)):
            raise ProblemError(
                "expected inputs and targets that can be read again, for a diagnosis runs several passes, got an iterator; "
                "pass what it yields: list(iterator), or next(iterator) for one batch of a loader"
            )
        if self.loss is not None and not callable(self.loss):
            raise ProblemError(f"expected the loss to be callable: loss(output, targets), got {_described(self.loss)}")
        if self.loss is None and self.targets is not None:
            raise ProblemError("targets were given but no loss; pass loss=, for example loss=nn.CrossEntropyLoss()")
        if self.optimizer is not None and not isinstance(self.optimizer, Optimizer):
            raise ProblemError(
                f"expected the optimizer to be a torch.optim.Optimizer, got {_described(self.optimizer)}"
            )


def _values(inputs: Any) -> Iterable[Any]:
    if isinstance(inputs, Mapping):
        return inputs.values()
    return inputs if isinstance(inputs, tuple | list) else ()


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} (an instance was expected)"
    return f"{type(value).__name__}"
