"""Stacks of transformer blocks, pre-norm, post-norm or without norms, with or without shortcuts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headwater.networks.activation_functions import activation_module
from headwater.networks.empty_layers import empty_linear
from headwater.networks.input_check import check_input
from headwater.networks.layer_plan import LayerPlan, Role
from headwater.networks.normalisation import norm_module
from headwater.networks.shortcuts import SUMMED, add_branch, branch_alpha, branch_scale
from headwater.networks.specification import NetworkSpec

_HEAD_WIDTH = 16
_HIDDEN_TO_WIDTH = 4


class Attention(nn.Module):
    """Self-attention of every position to every position (Vaswani et al. 2017, arXiv 1706.03762).

    Args:
        width: features of a position.
        num_heads: a divisor of it.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (empty_linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, positions, width) to the same shape."""
        query, key, value = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)
            for project in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(-3, -2).flatten(-2))


class FeedForward(nn.Module):
    """Two linear layers with an activation between, four times as wide, for each position alone.

    Args:
        width: features of a position.
        activation: between the layers.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.linear1 = empty_linear(width, _HIDDEN_TO_WIDTH * width)
        self.activation = activation_module(activation)
        self.linear2 = empty_linear(_HIDDEN_TO_WIDTH * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same shape."""
        return self.linear2(self.activation(self.linear1(x)))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each a branch with a shortcut: x + branch(norm(x)) ("pre") or norm(x + branch(x)) ("post").

    Xiong et al. 2020, arXiv 2002.04745, figure 1. Without shortcuts, branch(norm(x)) and norm(branch(x)).

    Args:
        spec: of the network.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.is_pre, self.is_summed = spec.norm_position == "pre", spec.shortcut in SUMMED
        self.scale = branch_scale(spec)
        self.attention_norm = norm_module(spec.normalisation, spec.width)
        self.attention = Attention(spec.width, num_heads(spec.width))
        self.attention_alpha = branch_alpha(spec)
        self.feed_forward_norm = norm_module(spec.normalisation, spec.width)
        self.feed_forward = FeedForward(spec.width, spec.activation)
        self.feed_forward_alpha = branch_alpha(spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, positions, width) to the same shape."""
        x = self._with_shortcut(x, self.attention, self.attention_norm, self.attention_alpha)
        return self._with_shortcut(x, self.feed_forward, self.feed_forward_norm, self.feed_forward_alpha)

    def _with_shortcut(
        self, x: torch.Tensor, branch: nn.Module, norm: nn.Module, alpha: torch.Tensor | None
    ) -> torch.Tensor:
        output = branch(norm(x) if self.is_pre else x)
        total = add_branch(x, output, self.scale, alpha) if self.is_summed else output
        return total if self.is_pre else norm(total)


class Transformer(nn.Module):
    """A linear `embedding`, blocks `layers.0` ..., means over positions, and the linear output layer `head`.

    There is no code for positions: an input that means something by its place says so in its features. Pre-norm stacks have a
    last `norm` after the blocks, as usual.

    Args:
        spec: of family "transformer".
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_inputs = spec.num_inputs
        self.embedding = empty_linear(spec.num_inputs, spec.width)
        self.layers = nn.ModuleList(TransformerBlock(spec) for _ in range(spec.depth))
        self.norm = norm_module(spec.normalisation if spec.norm_position == "pre" else "none", spec.width)
        self.head = empty_linear(spec.width, spec.num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output, (batch, num_outputs), for x of (batch, positions, num_inputs).

        Raises:
            ValueError: the input has another shape.
        """
        check_input(x, ("batch", "positions", self.num_inputs))
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(dim=1))


def num_heads(width: int) -> int:
    """Heads of about 16 features: the greatest divisor of the width up to a sixteenth of it, at least 1.

    >>> num_heads(64), num_heads(50), num_heads(8)
    (4, 2, 1)
    """
    return max(heads for heads in range(1, max(width // _HEAD_WIDTH, 1) + 1) if width % heads == 0)


def transformer_layers(spec: NetworkSpec) -> list[LayerPlan]:
    """The weight layers in forward order: the embedding, six a block, the head.

    Attention's queries and keys only choose, so Fixup and DeepNorm leave them as they are (Wang et al. 2022, arXiv 2203.00555).

    >>> [layer.module for layer in transformer_layers(NetworkSpec(family="transformer", depth=1))][1:-1:2]
    ['layers.0.attention.query', 'layers.0.attention.value', 'layers.0.feed_forward.linear1']
    """
    width, hidden = spec.width, _HIDDEN_TO_WIDTH * spec.width
    of_block = (
        ("attention.query", width, width, Role.PLAIN),
        ("attention.key", width, width, Role.PLAIN),
        ("attention.value", width, width, Role.BRANCH),
        ("attention.out", width, width, Role.BRANCH_END),
        ("feed_forward.linear1", hidden, width, Role.BRANCH),
        ("feed_forward.linear2", width, hidden, Role.BRANCH_END),
    )
    blocks = [
        LayerPlan(
            module=f"layers.{index}.{name}",
            num_outputs=num_outputs,
            num_inputs=num_inputs,
            role=role if spec.shortcut in SUMMED else Role.PLAIN,
            reads_activation=name == "feed_forward.linear2",
        )
        for index in range(spec.depth)
        for name, num_outputs, num_inputs, role in of_block
    ]
    embedding = LayerPlan(module="embedding", num_outputs=width, num_inputs=spec.num_inputs)
    return [
        embedding,
        *blocks,
        LayerPlan(module="head", num_outputs=spec.num_outputs, num_inputs=width, role=Role.HEAD),
    ]
