"""The next step of SGD, Adam and AdamW in float64, where nothing is rounded away: what it would be if numbers were exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer


@dataclass(frozen=True, slots=True, eq=False)
class ExactStep:
    """One parameter's step per unit of learning rate: new = old - rate * direction, all float64.

    Args:
        direction: of the whole step.
        decay: the part of the direction that weight decay makes by itself, without a gradient.
        kept: share of the step that epsilon leaves, sqrt(v) / (sqrt(v) + eps); None for an optimiser without epsilon.
        growth: by how much momentum lengthens the step while the gradient stays as it is: 1 once it has built up.
    """

    direction: Tensor
    decay: Tensor
    kept: Tensor | None = None
    growth: float = 1.0

    def changes(self, old: Tensor, rate: float) -> Tensor:
        """Per weight, whether the gradient makes a difference to the new value after rounding to the weight's dtype."""
        exact = old.double()
        with_gradient = (exact - rate * self.direction).to(old.dtype)
        return with_gradient != (exact - rate * self.decay).to(old.dtype)


def exact_step(
    optimizer: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], weight: Tensor, gradient: Tensor
) -> ExactStep | None:
    """The exact next step of one parameter; None where the optimiser is not exactly torch's SGD, Adam or AdamW.

    Args:
        optimizer: whose class says which formula holds; a subclass may step as it likes.
        group: the settings of the parameter's group.
        state: what the optimiser holds of the parameter; empty before its first step.
        weight: any real dtype.
        gradient: of the same shape, dense.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> optimizer = SGD([weight], 0.1, weight_decay=0.5)
    >>> step = exact_step(optimizer, optimizer.param_groups[0], {}, weight.detach(), torch.tensor([2.0]))
    >>> step.direction, step.decay, step.changes(weight.detach(), 1e-9)
    (tensor([2.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64), tensor([False]))
    """
    formula = _FORMULAS.get(type(optimizer))
    if formula is None or weight.is_complex():
        return None
    slope = gradient.double()
    return formula(group, state, weight.double(), -slope if group.get("maximize") else slope)


def _sgd(group: Mapping[str, Any], state: Mapping[str, Any], weight: Tensor, slope: Tensor) -> ExactStep:
    """Sutskever et al. 2013, as torch.optim.SGD writes it: b = m b + (1 - dampening) g, step b, or g + m b (Nesterov)."""
    momentum, damped = float(group["momentum"]), 1.0 - float(group["dampening"])
    decay = group["weight_decay"] * weight
    direction = slope + decay
    if not momentum:
        return ExactStep(direction, decay)
    buffer = state.get("momentum_buffer")
    is_first = buffer is None
    own_share = 1.0 if is_first else damped
    smoothed = own_share * direction if buffer is None else momentum * buffer.double() + own_share * direction
    share = own_share
    if group["nesterov"]:
        smoothed, share = direction + momentum * smoothed, 1.0 + momentum * own_share
    settled = damped / (1.0 - momentum) if momentum < 1.0 else 1.0
    if group["nesterov"]:
        settled = 1.0 + momentum * settled
    return ExactStep(smoothed, share * decay, growth=max(settled / share, 1.0) if is_first else 1.0)


def _adam(group: Mapping[str, Any], state: Mapping[str, Any], weight: Tensor, slope: Tensor) -> ExactStep:
    """Kingma & Ba 2014, arXiv 1412.6980, algorithm 1; with decoupled decay Loshchilov & Hutter 2017, arXiv 1711.05101."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    number = float(state.get("step", 0)) + 1.0
    is_decoupled = group.get("decoupled_weight_decay", False)
    decay = group["weight_decay"] * weight
    if not is_decoupled:
        slope = slope + decay
    mean = (1.0 - beta1) * slope
    square = (1.0 - beta2) * slope.square()
    if "exp_avg" in state:
        mean = mean + beta1 * state["exp_avg"].double()
        square = square + beta2 * state["exp_avg_sq"].double()
    if "max_exp_avg_sq" in state:
        square = torch.maximum(square, state["max_exp_avg_sq"].double())
    root = (square / (1.0 - beta2**number)).sqrt()
    steepest = root + float(group["eps"])
    direction = mean / (1.0 - beta1**number) / steepest
    no_decay = torch.zeros_like(decay)
    return ExactStep(
        direction + decay if is_decoupled else direction, decay if is_decoupled else no_decay, root / steepest
    )


def _adamw(group: Mapping[str, Any], state: Mapping[str, Any], weight: Tensor, slope: Tensor) -> ExactStep:
    return _adam({**group, "decoupled_weight_decay": True}, state, weight, slope)  # older torch has no such setting


_FORMULAS: dict[type[Optimizer], Callable[..., ExactStep]] = {SGD: _sgd, Adam: _adam, AdamW: _adamw}
