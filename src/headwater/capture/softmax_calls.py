"""The softmaxes of a forward pass: functions of their own, or inside of fused attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headwater.capture import torch_internals
from headwater.capture.fused_attention import FusedAttention, Other, fused_arguments, fused_attention
from headwater.capture.torch_functions import can_be_read, plain_name

_MASKED = -9999.0  # what is added to the scores of a softmax that shall not be looked at is -1e4 or less


@dataclass(frozen=True, slots=True)
class SoftmaxCall:
    """One call of a function that chooses.

    Args:
        function: that was called.
        args, kwargs: its arguments.
        scores: what a softmax reads; None inside of fused attention.
        dim: along which it runs.
        fused: the arguments of fused attention by name; None for a softmax.
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    scores: Tensor | None
    dim: int
    fused: Mapping[str, Any] | None

    @property
    def attention(self) -> FusedAttention | None:
        """The attention that is computed, with its scores; None for a softmax of its own."""
        return None if self.fused is None else fused_attention(self.fused)

    def looked_into(self, result: Any) -> tuple[Tensor, Any]:
        """What it reads and what it makes of that, for the function's result; of fused attention a sample, computed once more."""
        attention = self.attention
        if attention is None:
            assert self.scores is not None
            return self.scores.detach(), result
        scores = attention.sample_of_scores()
        return scores, scores.softmax(-1)

    def with_other_choice(self, other: Other) -> Any:
        """What the function would return with other probabilities."""
        attention = self.attention
        if attention is not None:
            return attention.with_other_choice(other, open_entries)
        assert self.scores is not None
        return other(self.function(*self.args, **self.kwargs), open_entries(self.scores), self.dim)


@torch_internals.unseen
def softmax_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> SoftmaxCall | None:
    """The call, if it is a softmax or has one inside; None for anything else, and where the scores want no gradient.

    >>> import torch
    >>> scores = torch.ones(2, 3, requires_grad=True)
    >>> softmax_call(torch.softmax, (scores, -1), {}).dim, softmax_call(torch.relu, (scores,), {})
    (-1, None)
    """
    fused = fused_arguments(function, args, kwargs)
    if fused is not None:
        read = [fused[name] for name in ("query", "key", "value")]
        scoring = [fused["query"], fused["key"], fused.get("attn_mask")]  # a mask may be a learned bias
        wants = "in_proj_weight" in fused or any(one is not None and one.requires_grad for one in scoring)
        return SoftmaxCall(function, args, kwargs, None, -1, fused) if wants and all(map(can_be_read, read)) else None
    if plain_name(function) != "softmax":
        return None
    source = args[0] if args else kwargs.get("input")
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(source, Tensor) or not source.requires_grad or not can_be_read(source):
        return None
    return SoftmaxCall(function, args, kwargs, source, dim, None) if isinstance(dim, int) else None


def open_entries(scores: Tensor) -> Tensor:
    """The scores that are not masked.

    >>> import torch
    >>> open_entries(torch.tensor([1.0, -1e9]))
    tensor([ True, False])
    """
    return scores.detach() > _MASKED
