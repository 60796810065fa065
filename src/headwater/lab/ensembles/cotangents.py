"""What goes into the backward pass of every network: given, the slope of a loss, or random and the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headwater.lab.ensembles.error import EnsembleError
from headwater.lab.ensembles.measurements import Floats

Loss = Callable[..., Tensor]
_SEED = (
    0  # of random cotangents: the same for every ensemble with outputs of this shape, so that variants can be paired
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cotangents:
    """How to make them.

    Args:
        given: of the shape of one network's output; the same for every network.
        loss: `loss(output, targets)`, or `loss(output)` without targets, of one network's output.
        targets: what the loss compares with.
    """

    given: Tensor | None = None
    loss: Loss | None = None
    targets: Any = None

    def __post_init__(self) -> None:
        if self.given is not None and self.loss is not None:
            raise EnsembleError("expected a cotangent or a loss, got both: leave one out")
        if self.targets is not None and self.loss is None:
            raise EnsembleError("expected a loss to compare the output with the targets, got targets alone: pass loss=")
        if self.loss is not None and not callable(self.loss):
            raise EnsembleError(
                f"expected loss to be a function of (output, targets), got a {type(self.loss).__name__}"
            )
        if self.given is not None and not isinstance(self.given, Tensor):
            raise EnsembleError(f"expected the cotangent to be a tensor, got a {type(self.given).__name__}")

    def at(self, outputs: Tensor) -> tuple[Tensor, Floats]:
        """The cotangent of every network at its output, and its loss, nan without one.

        Args:
            outputs: (networks, ...).

        Raises:
            EnsembleError: a given cotangent has another shape than one output, or the loss is no number with a slope.
        """
        if self.loss is not None:
            return self._slopes(outputs, self.loss)
        cotangent = _random(outputs[0]) if self.given is None else self._checked(outputs[0], self.given)
        return cotangent.expand_as(outputs), np.full(len(outputs), np.nan)

    @staticmethod
    def _checked(output: Tensor, given: Tensor) -> Tensor:
        if given.shape != output.shape:
            raise EnsembleError(
                f"expected a cotangent of the output's shape {tuple(output.shape)}, got {tuple(given.shape)}"
            )
        return given.detach().to(output)

    def _slopes(self, outputs: Tensor, loss: Loss) -> tuple[Tensor, Floats]:
        outputs = outputs.detach().requires_grad_()
        rest = () if self.targets is None else (self.targets,)
        with torch.enable_grad():
            losses = _per_network(loss, outputs, rest)
            if not losses.requires_grad:
                raise EnsembleError("expected a loss that depends on the output, got one without a gradient")
            (slopes,) = torch.autograd.grad(losses.sum(), outputs)
        return slopes, losses.detach().double().numpy(force=True)


def _per_network(loss: Loss, outputs: Tensor, rest: tuple[Any, ...]) -> Tensor:
    """The losses, (networks,): all at once where the function can be vectorised, one after the other where not."""
    try:
        losses = torch.vmap(lambda output: loss(output, *rest))(outputs)
    except Exception:  # noqa: BLE001  # what is wrong with the loss itself, the plain call raises again
        losses = None
    if isinstance(losses, Tensor) and losses.shape == outputs.shape[:1]:
        return losses
    return torch.stack([_plain(loss, output, rest) for output in outputs])


def _plain(loss: Loss, output: Tensor, rest: tuple[Any, ...]) -> Tensor:
    try:
        return _number(loss(output, *rest))
    except RuntimeError:
        # A network that is measured again in float64 meets a loss with float32 weights or targets of its own.
        if output.dtype != torch.float64:
            raise
        return _number(loss(output.float(), *rest)).double()


def _number(value: object) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1 and value.ndim == 0:
        return value
    arrived = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise EnsembleError(f"expected the loss of one network to be one number as a tensor, got {arrived}")


def _random(output: Tensor) -> Tensor:
    """Independent N(0, 1), drawn in float32 whatever the output is, so that they do not change with the dtype."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output)
