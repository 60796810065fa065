"""The parts of one forward pass of a problem: copies of its inputs, calls that say what failed, the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from headwater.capture.problem import Problem, ProblemError
from headwater.capture.structure import map_tensors


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for the model; tensors are copied, so that a backward pass ends there.

    Raises:
        ProblemError: a dict whose keys are no names.

    >>> arguments({"x": 1}), arguments((1, 2)), arguments(3)
    (((), {'x': 1}), ((1, 2), {}), ((3,), {}))
    """
    copied = map_tensors(dict(inputs) if isinstance(inputs, Mapping) else inputs, _detached_copy)
    if isinstance(copied, dict):
        if not all(isinstance(key, str) for key in copied):
            raise ProblemError("expected the keys of a dict of inputs to be the names of the model's arguments")
        return (), copied
    if isinstance(copied, tuple) and not hasattr(copied, "_fields"):
        return copied, {}
    return (copied,), {}


def _detached_copy(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return copied.requires_grad_() if tensor.requires_grad else copied  # a transform of torch.func refuses even False


def called(what_failed: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """What the function returns.

    Raises:
        ProblemError: it raised an exception; the message says what failed.

    >>> called("adding failed", sum, [1, 2])
    3
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        message = str(error).strip().splitlines()
        first_line = message[0] if message else "no message"
        raise ProblemError(f"{what_failed}: {type(error).__name__}: {first_line}") from error


def loss_of(problem: Problem, output: Any) -> Tensor | None:
    """The scalar to differentiate; None where random cotangents shall be used.

    Raises:
        ProblemError: the loss failed, or is no scalar with a gradient.

    >>> from torch import nn, ones
    >>> loss_of(Problem(nn.Linear(1, 1), None), ones(2)) is None
    True
    """
    if problem.loss is not None:
        targets = () if problem.targets is None else (problem.targets,)
        loss = called("the loss failed on the model's output", problem.loss, output, *targets)
        where = "the loss"
    elif isinstance(output, Tensor):
        if output.dim():
            return None
        loss, where = output, "the model's scalar output"
    else:
        loss, where = getattr(output, "loss", None), "the output's .loss"
        if loss is None:
            return None
    if not isinstance(loss, Tensor):
        raise ProblemError(f"expected {where} to be a scalar tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ProblemError(
            f"expected {where} to be a scalar, got shape {tuple(loss.shape)}; "
            "reduce it, for example with .mean() or reduction='mean'"
        )
    if not loss.requires_grad:
        raise ProblemError(
            f"{where} does not depend on any parameter through autograd: look for detach(), torch.no_grad(), "
            "argmax or .item() on the way, or for a new tensor made from the values"
        )
    return loss
