"""How signal and gradient grow over blocks with each kind of shortcut, and what a norm's place does to the last branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from headwater.lab.simulation.agreement import Agreement, agreement
from headwater.lab.simulation.random_weights import gaussian_weight, normal, squared_gradient_norms
from headwater.theory import residual
from headwater.theory.activations import RELU
from headwater.theory.batch_norm import varying_share

Quantity = Literal["signal", "gradient"]
Branch = Callable[[Tensor], Tensor]

_ALPHAS = (0.9, -0.3, 0.5, 0.0, 1.2, 0.7, -0.6, 0.2)  # repeated
_GATE_BIAS, _GATE_VARIANCE = -1.0, 0.5


class _Kind(NamedTuple):
    title: str
    network: Callable[[torch.Generator, Tensor, int], Tensor]
    predicted: Callable[[int], residual.Growth]


def growth(
    kind: str = "identity",
    depths: Sequence[int] = (2, 4, 8),
    *,
    quantity: Quantity = "gradient",
    width: int = 200,
    seeds: int = 24,
) -> Agreement:
    """What L blocks multiply the mean square of the signal, or the squared norm of the gradient, by.

    Within 10 % (for identity shortcuts and 2 % for each block) and two standard errors.

    Branches are a He-initialised ReLU layer and a linear layer: gain and chi are 1.

    Args:
        kind: one of `KINDS`.
        depths: numbers of blocks.
        quantity: "signal" or "gradient".
        width: of the stream and of the branches.
        seeds: networks.

    >>> growth("identity", [2], width=20, seeds=2).predicted
    (4.0,)
    """
    found = KINDS[kind]
    # Where growth is exponential, so is what finite width adds to it.
    slack = 0.02 * max(depths) if kind == "identity" else 0.0
    return agreement(
        found.title,
        ("blocks", f"growth of the {quantity} (factor of the square)"),
        depths,
        [[_growth(found, depth, quantity, width, seed) for seed in range(seeds)] for depth in depths],
        [getattr(found.predicted(depth), quantity) for depth in depths],
        tolerance=0.1 + slack,
        errors_allowed=2.0,
    )


def last_branch_gradient(
    position: Literal["pre", "post"] = "pre", depths: Sequence[int] = (4, 16, 64), *, width: int = 100, seeds: int = 8
) -> Agreement:
    """Norm of the weight gradient of the last branch: 1 / sqrt(1 + L) with the norm before the branches, flat with it behind the sums; within 10 %.

    Relative to what it is behind a stream of size 1: sqrt of the inner features' square times the cotangent's.

    >>> last_branch_gradient("post", [2], width=20, seeds=2).places
    (2.0,)
    """
    predicted = residual.pre_norm_last_gradient if position == "pre" else lambda _: residual.post_norm_last_gradient()
    return agreement(
        f"{position}-norm blocks",
        ("blocks", "weight gradient of the last branch (relative norm)"),
        depths,
        [[_last_gradient(position, depth, width, seed) for seed in range(seeds)] for depth in depths],
        [predicted(depth) for depth in depths],
        tolerance=0.1,
    )


def _growth(kind: _Kind, depth: int, quantity: Quantity, width: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    start = normal(generator, 64, width).requires_grad_()
    end = kind.network(generator, start, depth)
    if quantity == "signal":
        return float((end.square().sum() / start.square().sum()).detach())
    cotangent = normal(generator, *end.shape)
    # Of a concatenation each part gets as much as the start.
    per_part = float(cotangent.square().sum()) * width / end.shape[1]
    return squared_gradient_norms(end, [start], cotangent)[0] / per_part


def _last_gradient(position: str, depth: int, width: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    stream = normal(generator, 64, width)
    features, outer = stream, gaussian_weight(generator, width, width)
    for _ in range(depth):
        read = _layer_norm(stream) if position == "pre" else stream
        features = (read @ gaussian_weight(generator, width, width, 2.0).T).relu()
        outer = gaussian_weight(generator, width, width).requires_grad_()
        stream = stream + features @ outer.T
        stream = stream if position == "pre" else _layer_norm(stream)
    output = _layer_norm(stream) if position == "pre" else stream
    cotangent = normal(generator, 64, width)
    (arrived,) = squared_gradient_norms(output, [outer], cotangent)
    alone = float((cotangent.T @ features.detach()).square().sum())
    return (arrived / alone) ** 0.5


def _branch(generator: torch.Generator, width: int) -> Branch:
    inner, outer = gaussian_weight(generator, width, width, 2.0), gaussian_weight(generator, width, width)
    return lambda x: (x @ inner.T).relu() @ outer.T


def _blocks(
    scale_of: Callable[[int, int], float], norm: Branch = lambda x: x
) -> Callable[[torch.Generator, Tensor, int], Tensor]:
    def network(generator: torch.Generator, hidden: Tensor, depth: int) -> Tensor:
        for block in range(depth):
            hidden = hidden + scale_of(block, depth) * _branch(generator, hidden.shape[1])(norm(hidden))
        return hidden

    return network


def _post_norm_blocks(generator: torch.Generator, hidden: Tensor, depth: int) -> Tensor:
    for _ in range(depth):
        hidden = _layer_norm(hidden + _branch(generator, hidden.shape[1])(hidden))
    return hidden


def _highway(generator: torch.Generator, hidden: Tensor, depth: int) -> Tensor:
    width = hidden.shape[1]
    for _ in range(depth):
        # The gate's pre-activations keep their variance, whatever the stream's size.
        size = hidden.detach().square().mean(1, keepdim=True).sqrt()
        gate_weight = gaussian_weight(generator, width, width, _GATE_VARIANCE)
        gate = torch.sigmoid(hidden / size @ gate_weight.T + _GATE_BIAS)
        hidden = gate * _branch(generator, width)(hidden) + (1.0 - gate) * hidden
    return hidden


def _dense(generator: torch.Generator, hidden: Tensor, depth: int) -> Tensor:
    width, everything = hidden.shape[1], hidden
    for _ in range(depth):
        fan_in = everything.shape[1]
        inner, outer = gaussian_weight(generator, width, fan_in, 2.0), gaussian_weight(generator, width, width)
        everything = torch.cat([everything, (everything @ inner.T).relu() @ outer.T], dim=1)
    return everything


def _layer_norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[1:], eps=0.0)


def _rms_norm(x: Tensor) -> Tensor:
    return x / x.square().mean(1, keepdim=True).sqrt()


def _batch_norm(x: Tensor) -> Tensor:
    return functional.batch_norm(x, None, None, training=True, eps=1e-12)


def _alpha(block: int, _depth: int) -> float:
    return _ALPHAS[block % len(_ALPHAS)]


KINDS: dict[str, _Kind] = {
    "identity": _Kind("identity shortcuts", _blocks(lambda *_: 1.0), residual.identity_growth),
    "scaled": _Kind("branches / √L", _blocks(lambda _, depth: depth**-0.5), residual.scaled_growth),
    "learned": _Kind(
        "branches times learned α",
        _blocks(_alpha),
        lambda depth: residual.learned_growth([_alpha(block, depth) for block in range(depth)]),
    ),
    "rezero": _Kind("ReZero", _blocks(lambda *_: 0.0), lambda depth: residual.learned_growth([0.0] * depth)),
    "highway": _Kind(
        "highway gates",
        _highway,
        lambda depth: residual.highway_growth(depth, _GATE_BIAS, gate_variance=_GATE_VARIANCE),
    ),
    "dense": _Kind("dense concatenation", _dense, residual.dense_growth),
    "pre_layer_norm": _Kind(
        "LayerNorm before the branch", _blocks(lambda *_: 1.0, _layer_norm), residual.pre_norm_growth
    ),
    "pre_rms_norm": _Kind("RMSNorm before the branch", _blocks(lambda *_: 1.0, _rms_norm), residual.pre_norm_growth),
    "pre_batch_norm": _Kind(
        "BatchNorm before the branch",
        _blocks(lambda *_: 1.0, _batch_norm),
        lambda depth: residual.pre_norm_growth(depth, varying_share=varying_share(RELU)),
    ),
    "post_norm": _Kind("LayerNorm behind the sum", _post_norm_blocks, residual.post_norm_growth),
}
