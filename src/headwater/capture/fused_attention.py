"""What fused attention does inside: its scores, and the same attention with other probabilities.

`F.scaled_dot_product_attention` and `F.multi_head_attention_forward` (what `nn.MultiheadAttention` calls) return no scores. Here they are
computed once more, from the same arguments.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headwater.capture import torch_internals

_MOST_SCORES = 2**18  # that are looked at; of more, queries are left out evenly
_MOST_CHOSEN = 2**26  # that are made anew with their graph: fused attention keeps none of them
_FUSED_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_UNUSUAL = ("bias_k", "bias_v", "static_k", "static_v")
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)

Other = Callable[
    [Tensor, Tensor, int], Tensor
]  # of probabilities, where they are not masked, and the dimension: other ones


@dataclass(frozen=True, slots=True)
class FusedAttention:
    """The arguments of one call.

    Args:
        queries: shape (..., T, d); keys: shape (..., S, d); values: shape (..., S, d_v).
        mask: added to the scores, or False where they are masked; can be broadcast to (..., T, S); None for none.
        is_causal: whether a query reads no later keys; the mask for that is as large as the scores, and is made of those that are asked for.
        scale: of the scores.
        dropout: probability.
        returned: what the call returns for an attention of shape (..., T, d_v) and its probabilities.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float
    dropout: float
    returned: Callable[[Tensor, Tensor], Any]

    def scores(self, *, most: int | None = None) -> Tensor:
        """What the softmax along the last dimension reads, shape (..., T, S); with a bound, of every n-th query only."""
        num_queries = self.queries.shape[-2]
        every = 1
        if most is not None:
            every = min(max(math.ceil(self._num_scores / most), 1), num_queries)
        mask = self.mask
        if mask is not None and mask.shape[-2] == num_queries:
            mask = mask[..., ::every, :]
        scores = self.scale * (self.queries[..., ::every, :] @ self.keys.transpose(-2, -1))
        if self.is_causal:
            rows, columns = (torch.arange(n, device=scores.device) for n in (num_queries, self.keys.shape[-2]))
            scores = scores.masked_fill(columns > rows[::every, None], -math.inf)
        return scores if mask is None else scores + _added(mask, scores)

    @property
    def _num_scores(self) -> int:
        return self.queries.shape[:-1].numel() * self.keys.shape[-2]

    def sample_of_scores(self) -> Tensor:
        """Enough of the scores to tell how sharp the softmax is, without a graph."""
        with torch.no_grad():
            return self.scores(most=_MOST_SCORES)

    def with_other_choice(self, other: Other, is_open: Callable[[Tensor], Tensor]) -> Any:
        """What the call would return with other probabilities.

        Args:
            other: makes them.
            is_open: tells which scores are not masked.

        Raises:
            ValueError: there are so many scores that the machine may lack the memory for them.
        """
        if self._num_scores > _MOST_CHOSEN:
            raise ValueError(f"expected at most {_MOST_CHOSEN} scores to choose from, got {self._num_scores}")
        scores = self.scores()
        is_shut = (scores == -math.inf).all(-1, keepdim=True)  # fused attention gives such a query nothing, not NaN
        probabilities = other(torch.softmax(scores, -1).masked_fill(is_shut, 0.0), is_open(scores), -1)
        return self.returned(F.dropout(probabilities, self.dropout) @ self.values, probabilities)


def fused_arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The arguments by name, where a call computes an attention as it is known here; None for another function, or an unusual one.

    >>> fused_arguments(torch.relu, (torch.ones(1),), {}) is None
    True
    """
    if function is F.scaled_dot_product_attention:
        return {**dict(zip(_FUSED_ARGUMENTS, args, strict=False)), **kwargs}
    if function is not F.multi_head_attention_forward:
        return None
    given = _MULTI_HEAD.bind(*args, **kwargs)
    given.apply_defaults()
    known = given.arguments
    unusual = known["add_zero_attn"] or any(known[name] is not None for name in _UNUSUAL)
    return None if unusual else known


@torch_internals.unseen
def fused_attention(given: Mapping[str, Any]) -> FusedAttention:
    """The attention that a call with these arguments computes.

    >>> x = torch.ones(1, 2, 3, 4)
    >>> fused_attention({"query": x, "key": x, "value": x}).scores().shape
    torch.Size([1, 2, 3, 3])
    """
    return _multi_head(given) if "num_heads" in given else _scaled_dot_product(**given)


def _scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> FusedAttention:
    if enable_gqa:
        key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    return FusedAttention(query, key, value, attn_mask, is_causal, scale, dropout_p, lambda attention, _: attention)


def _multi_head(given: Mapping[str, Any]) -> FusedAttention:
    """Shapes (T, B, E) in, or (T, E), and (B, H, T, d) inside, as `nn.MultiheadAttention` has them."""
    is_batched = given["query"].dim() == 3
    query, key, value = (given[name] if is_batched else given[name].unsqueeze(1) for name in ("query", "key", "value"))
    num_heads, num_samples = given["num_heads"], query.shape[1]
    weights = _input_weights(given, query.shape[-1])
    biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    queries, keys, values = (
        F.linear(x, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mask = given["attn_mask"]
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (num_samples, num_heads))
    is_causal = mask is None and given["is_causal"]
    mask = _added(None if mask is None else _inverted(mask), queries)
    padding = given["key_padding_mask"]
    if padding is not None:
        padding = _added(_inverted(padding if is_batched else padding[None]), queries)[:, None, None, :]
        mask = padding if mask is None else mask + padding

    def returned(attention: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor | None]:
        joined = attention.permute(2, 0, 1, 3).flatten(2)
        output = F.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
        weights = probabilities.mean(1) if given["average_attn_weights"] else probabilities
        if not is_batched:
            output, weights = output[:, 0], weights[0]
        return output, weights if given["need_weights"] else None

    dropout = given["dropout_p"] if given["training"] else 0.0
    scale = 1.0 / math.sqrt(queries.shape[-1])
    return FusedAttention(queries, keys, values, mask, is_causal, scale, dropout, returned)


def _input_weights(given: Mapping[str, Any], width: int) -> Sequence[Tensor]:
    if given["use_separate_proj_weight"]:
        return [given[f"{name}_proj_weight"] for name in "qkv"]
    return given["in_proj_weight"].split(width)


def _inverted(mask: Tensor) -> Tensor:
    """True stands for what is masked in `nn.MultiheadAttention`, and for what is not in `F.scaled_dot_product_attention`."""
    return ~mask if mask.dtype is torch.bool else mask


def _added(mask: Tensor | None, like: Tensor) -> Any:
    """A mask as it is added to scores."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, -math.inf)
