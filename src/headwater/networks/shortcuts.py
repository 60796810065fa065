"""How a branch and its shortcut come together: x + scale * alpha * branch(x)."""

from __future__ import annotations

import math

import torch
from torch import nn

from headwater.networks.specification import NetworkSpec

GATE_BIAS = -1.0  # a highway carries at first: Srivastava et al. 2015, arXiv 1505.00387, section 2.2
SUMMED = ("identity", "scaled", "learned")


def branch_scale(spec: NetworkSpec) -> float:
    """The fixed number that a branch is multiplied by: 1, 1/sqrt(L) for "scaled"; DeepNorm divides it by its alpha.

    DeepNorm computes norm(alpha x + branch(x)); x + branch(x) / alpha is the same to the norm, and does not explode without one.

    >>> branch_scale(NetworkSpec(depth=5, shortcut="scaled"))
    0.5
    """
    scale = 1.0 / math.sqrt(spec.num_blocks) if spec.shortcut == "scaled" else 1.0
    return scale / deepnorm_alpha(spec.num_blocks) if spec.initialisation == "deepnorm" else scale


def branch_alpha(spec: NetworkSpec) -> nn.Parameter | None:
    """The scalar of a branch that is trained: of "learned" shortcuts, and of ReZero's and Fixup's making; else None.

    It starts with 0 for ReZero, and for Fixup in an mlp, whose branch ends with it; else with 1.

    >>> branch_alpha(NetworkSpec(shortcut="identity")), branch_alpha(NetworkSpec(shortcut="learned")).item()
    (None, 1.0)
    """
    if spec.shortcut not in SUMMED or not (spec.shortcut == "learned" or spec.initialisation in ("rezero", "fixup")):
        return None
    is_branch_end = spec.initialisation == "fixup" and spec.family == "mlp"
    return nn.Parameter(torch.tensor(0.0 if spec.initialisation == "rezero" or is_branch_end else 1.0))


def add_branch(x: torch.Tensor, branch: torch.Tensor, scale: float, alpha: torch.Tensor | None) -> torch.Tensor:
    """The sum x + scale * alpha * branch, without the factors that are not there.

    >>> add_branch(torch.tensor(1.0), torch.tensor(4.0), 0.5, None)
    tensor(3.)
    """
    scaled = branch if scale == 1.0 else scale * branch
    return x + (scaled if alpha is None else alpha * scaled)


def fixup_factor(num_blocks: int) -> float:
    """L^(-1/(2m - 2)) with m = 2 layers a branch (Zhang et al. 2019, arXiv 1901.09321, section 4).

    >>> fixup_factor(16)
    0.25
    """
    return num_blocks**-0.5


def deepnorm_alpha(num_blocks: int) -> float:
    """(2N)^(1/4) for N transformer layers of two branches each, so L = 2N (Wang et al. 2022, arXiv 2203.00555, figure 2).

    >>> deepnorm_alpha(16)
    2.0
    """
    return num_blocks**0.25


def deepnorm_beta(num_blocks: int) -> float:
    """(8N)^(-1/4), the gain of a branch's weights (Wang et al. 2022, arXiv 2203.00555, figure 2).

    >>> deepnorm_beta(4)
    0.5
    """
    return (4 * num_blocks) ** -0.25
