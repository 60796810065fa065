"""One pass of a problem, step by step: copied arguments, the loss, and what its backward pass begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from headwater.capture import torch_internals
from headwater.capture.precision import within_range
from headwater.capture.problem import Problem, ProblemError
from headwater.capture.structure import map_tensors, named_tensors


def modules_of(model: nn.Module, problem: Problem) -> list[nn.Module]:
    """All that a pass may change: the model, and a loss that is a module.

    >>> layer = nn.Linear(1, 1)
    >>> len(modules_of(layer, Problem(layer, torch.ones(1), None, nn.Identity())))
    2
    """
    return [model, problem.loss] if isinstance(problem.loss, nn.Module) else [model]


def arguments_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of a problem's inputs as positional and keyword arguments, so that a backward pass ends there.

    Raises:
        ProblemError: a dict whose keys are no names.

    >>> arguments_of({"x": torch.ones(1)})
    ((), {'x': tensor([1.])})
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
    """What a function of the user returns.

    Raises:
        ProblemError: it raised something; the message says what failed.

    >>> called("the sum failed", sum, [1, 2])
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
        ProblemError: the loss failed, or is no real scalar that depends on a parameter; or the output is empty.

    >>> layer = nn.Linear(1, 1)
    >>> loss_of(Problem(layer, torch.ones(1)), layer(torch.ones(1))) is None
    True
    """
    outputs = named_tensors(output)
    if outputs and not any(tensor.numel() for _, tensor in outputs):
        raise ProblemError(
            f"the model's output ({type(output).__name__}) is empty, as that of a batch without samples is, so there is no "
            "gradient to follow; pass at least one sample"
        )
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
    if loss.is_complex():
        raise ProblemError(f"expected {where} to be a real number, got {loss.dtype}; take its .real or .abs()")
    if not loss.requires_grad:
        raise ProblemError(
            f"{where} does not depend on any parameter through autograd: look for detach(), torch.no_grad(), "
            "argmax or .item() on the way, or for a new tensor made from the values"
        )
    return loss


def roots_of(
    output: Any, loss: Tensor | None, seed: int, scale_exponent: int
) -> tuple[list[Tensor], list[Tensor], int]:
    """Where the backward pass begins, with what, and the binary exponent that the loss is really scaled by.

    >>> loss = torch.ones((), requires_grad=True) * 1.0
    >>> roots_of(None, loss, 0, 2)[1:]
    ([tensor(4.)], 2)
    """
    if loss is None:
        return (*_random_cotangents(output, seed), scale_exponent)
    scale_exponent = within_range(scale_exponent, loss.dtype)
    return [loss], [torch.full_like(loss, 2.0**scale_exponent)], scale_exponent


def _random_cotangents(output: Any, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    tensors = list({id(t): t for _, t in named_tensors(output) if t.requires_grad}.values())
    if not tensors:
        raise ProblemError(
            f"the model's output ({type(output).__name__}) holds no tensor that depends on a parameter through autograd"
        )
    generator = torch.Generator(device="cpu").manual_seed(seed)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float32, device="cpu").to(t.device, t.dtype)
        for t in tensors
    ]
    return tensors, cotangents


def other_leaves(roots: list[Tensor], model: nn.Module) -> list[Tensor]:
    """Leaves outside of the model that the backward pass would add gradients to (a loss with weights of its own).

    >>> layer, weight = nn.Linear(1, 1), torch.ones(1, requires_grad=True)
    >>> other_leaves([layer(torch.ones(1)) * weight], layer)
    [tensor([1.], requires_grad=True)]
    """
    own = {id(parameter) for parameter in model.parameters()}
    return [leaf for leaf in torch_internals.leaves_behind(roots) if id(leaf) not in own]
