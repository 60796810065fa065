"""Which modules are layers: with weights of their own, and nobody else to call."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def is_layer(module: nn.Module) -> bool:
    """Whether it has parameters and calls nobody, or has a weight computed and calls nobody else (`torch.nn.utils.parametrize`).

    >>> is_layer(nn.Linear(1, 1)), is_layer(nn.ReLU()), is_layer(nn.Sequential(nn.Linear(1, 1)))
    (True, False, False)
    """
    if parametrize.is_parametrized(module):
        return len(module._modules) == 1
    return not module._modules and any(parameter is not None for parameter in module._parameters.values())


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model; what computes their weights is none.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(1, 1))
    >>> [type(module).__name__ for module in layers_of(nn.Sequential(layer))]
    ['ParametrizedLinear']
    """
    lists = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    inside = {id(module) for one in lists for module in one.modules()}
    return [module for module in model.modules() if is_layer(module) and id(module) not in inside]
