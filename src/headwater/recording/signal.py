"""One measured tensor of a pass: which module, which call, what kind, and its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headwater.recording.tensor_stats import TensorStats


class SignalKind(StrEnum):
    """What a measured tensor is to its module."""

    INPUT = "input"
    ACTIVATION = "activation"
    ACTIVATION_GRADIENT = "activation_gradient"
    INPUT_GRADIENT = "input_gradient"
    WEIGHT = "weight"
    WEIGHT_GRADIENT = "weight_gradient"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Signal:
    """One tensor as it was measured.

    Args:
        module: path of the module in `named_modules()`; "" is the model itself.
        call: the n-th time the module ran in this recording, from 0; 0 for weights.
        depth: position of the call in execution order (a caller before what it calls); -1 for the
            weights of a module that never ran.
        kind: what the tensor is to its module.
        item: where the tensor sits in a structured input or output ("0", "logits", "1.0"; "" for a
            bare tensor); for weights the parameter's own name ("weight", "bias").
        module_type: class name of the module.
        shape: shape of the tensor, of the local shard if it is distributed.
        dtype: name of its dtype, without "torch.".
        tensor: number of the measured tensor: a parent's output that is also its child's is measured
            once, and both signals carry the same number. Gradients carry their forward tensor's number.
        stats: its statistics.
    """

    module: str
    call: int
    depth: int
    kind: SignalKind
    item: str
    module_type: str
    shape: tuple[int, ...]
    dtype: str
    tensor: int
    stats: TensorStats

    @property
    def parameter(self) -> str:
        """Full name of the parameter that a weight signal belongs to, as in `named_parameters()`."""
        return f"{self.module}.{self.item}" if self.module else self.item
