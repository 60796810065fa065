"""What a recording says about the circumstances of its passes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The circumstances a recording was made under.

    Args:
        cotangent: what fed the backward pass: "loss" (a loss headwater called), "random" (N(0, 1) probes),
            "user" (the user's own backward), "none" (no backward pass was seen).
        loss: value of the loss, where there was one.
        step: optimiser step the pass belongs to.
        seed: seed of the random cotangents.
        optimizer: class name of the optimiser that will train the model, where it was given.
        devices: devices the parameters and outputs live on.
        model_type: class name of the model.
        versions: versions of headwater, torch and python that made the recording.
        backward_scale_exponent: gradients were computed from the loss times 2**this, which keeps them
            inside float32; every recorded gradient is already divided by it.
        notes: what could not be observed and why, one sentence each.
    """

    cotangent: str = "none"
    loss: float | None = None
    step: int | None = None
    seed: int | None = None
    optimizer: str = ""
    devices: tuple[str, ...] = ()
    model_type: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    backward_scale_exponent: int = 0
    notes: tuple[str, ...] = ()
