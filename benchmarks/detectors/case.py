"""A labelled case: how to make it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Subject:
    """What a detector is given.

    Args:
        model, inputs, targets, loss, optimizer: as `headwater.diagnose` takes them.
        options: further arguments of it.
    """

    model: nn.Module
    inputs: Any
    targets: Any = None
    loss: Callable[..., Any] | None = None
    optimizer: Optimizer | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One model with its truth.

    Args:
        name: of the case.
        make: the subject of a seed; None where the fault depends on chance and this seed does not have it.
        codes: findings of which each alone is the right answer; empty for a healthy case.
        module: that must be among the named ones; None where no one module is to blame.
    """

    name: str
    make: Callable[[int], Subject | None]
    codes: tuple[str, ...] = ()
    module: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether any alarm is a false one."""
        return not self.codes
