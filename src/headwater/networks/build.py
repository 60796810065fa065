"""From a specification to a network."""

from __future__ import annotations

import torch
from torch import nn

from headwater.networks.families import empty_network
from headwater.networks.initialisation import on_cpu, parameters_of
from headwater.networks.specification import NetworkSpec


def build(spec: NetworkSpec, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a specification, in training mode, on the CPU; the same seed gives the same parameters.

    Variants that differ in nothing but a shortcut "none", "identity" or "scaled" have the same parameters; "learned" adds one
    scalar a block, "highway" its gates, and "dense" has wider weights. The global random generators stay as they are.

    Args:
        spec: of the network.
        seed: of its initial parameters.
        dtype: of its parameters.

    >>> model = build(NetworkSpec(depth=2, width=8, shortcut="identity"), seed=1)
    >>> model(torch.zeros(5, 16)).shape
    torch.Size([5, 4])
    """
    with on_cpu(), torch.no_grad():
        model = empty_network(spec).to(dtype)
        parameters = parameters_of(model, spec, [seed], dtype=dtype)
        for name, parameter in model.named_parameters():
            parameter.copy_(parameters[name][0])
    return model
