"""The notebook's measurement: the mean absolute gradient of every weight after one backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def gradient_means(
    model: nn.Module, x: torch.Tensor, *, target: torch.Tensor | None = None, loss: LossFunction | None = None
) -> dict[str, float]:
    """The mean absolute gradient of every parameter with "weight" in its name; nan where no gradient arrives.

    One forward pass, the loss, one backward pass. The parameters' `.grad` stay as they are.

    Args:
        model: any module that returns one tensor.
        x: its input.
        target: what the output is compared with; zeros of the output's shape if left out.
        loss: `loss(output, target)`, a scalar; the mean squared error if left out.

    Raises:
        ValueError: the output is not one tensor, the target does not fit it, the loss is not one number, or no
            gradient can flow.

    >>> model = nn.Linear(2, 1)
    >>> _ = nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
    >>> gradient_means(model, torch.tensor([[3.0, -1.0]]))  # y = 2, dL/dw = 2 y x = (12, -4)
    {'weight': 8.0}
    """
    gradients = _parameter_gradients(model, x, target, loss)
    return {name: _mean_abs(gradient) for name, (_, gradient) in gradients.items() if _is_weight(name)}


def print_gradients(
    model: nn.Module, x: torch.Tensor, *, target: torch.Tensor | None = None, loss: LossFunction | None = None
) -> None:
    """Prints one line per weight: its mean absolute gradient after one forward and one backward pass.

    Afterwards each parameter's `.grad` holds the gradient of this pass alone, whatever it held before, so a second
    call prints the same numbers. Arguments and errors are those of `gradient_means`.

    >>> model = nn.Linear(2, 1)
    >>> _ = nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
    >>> print_gradients(model, torch.tensor([[3.0, -1.0]]))
    weight has gradient mean of 8.0
    """
    gradients = _parameter_gradients(model, x, target, loss)
    for name, (parameter, gradient) in gradients.items():
        # Cloned, since autograd may hand out an expanded view, which an optimiser could not write to.
        parameter.grad = None if gradient is None else gradient.clone()
        if _is_weight(name):
            # The one function outside the command line that prints: the notebook's name, the notebook's behaviour.
            print(_line(name, gradient))  # noqa: T201


def _line(name: str, gradient: torch.Tensor | None) -> str:
    return f"{name} has no gradient" if gradient is None else f"{name} has gradient mean of {_mean_abs(gradient)}"


def _is_weight(name: str) -> bool:
    return "weight" in name


def _mean_abs(gradient: torch.Tensor | None) -> float:
    return math.nan if gradient is None else gradient.abs().mean().item()


def _parameter_gradients(
    model: nn.Module, x: torch.Tensor, target: torch.Tensor | None, loss: LossFunction | None
) -> dict[str, tuple[nn.Parameter, torch.Tensor | None]]:
    parameters = dict(model.named_parameters())
    trainable = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    if not trainable:
        raise ValueError(f"expected a model with trainable parameters, {type(model).__name__} has none")
    value = _loss_value(model(x), target, loss)
    if not value.requires_grad:
        raise ValueError(
            "the loss does not depend on any trainable parameter: call outside torch.no_grad(), and look for"
            " detach() or .data in the model and the loss"
        )
    gradients = torch.autograd.grad(value, list(trainable.values()), allow_unused=True)
    gradient_of = dict(zip(trainable, gradients, strict=True))
    return {name: (parameter, gradient_of.get(name)) for name, parameter in parameters.items()}


def _loss_value(output: torch.Tensor, target: torch.Tensor | None, loss: LossFunction | None) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"expected a model that returns one tensor, got a {type(output).__name__}")  # noqa: TRY004
    if target is None:
        target = torch.zeros_like(output)
    if loss is None:
        if target.shape != output.shape:
            raise ValueError(
                f"expected a target of the output's shape {tuple(output.shape)}, got {tuple(target.shape)};"
                " pass loss= for a loss that compares other shapes"
            )
        loss = nn.functional.mse_loss
    value = loss(output, target)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        arrived = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"expected loss(output, target) to return one number as a tensor, got {arrived}")
    return value
