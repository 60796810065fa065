"""Layer-sequential unit variance: orthonormal weights, each layer scaled until its output has variance 1 on data."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from headwater.networks.families import input_shape, weight_layers
from headwater.networks.layer_plan import Role
from headwater.networks.specification import NetworkSpec

_NUM_SAMPLES = 256
_TOLERANCE = 0.1
_MAX_TRIES = 10
_DATA_SEED = 1511_06422  # one data set for all seeds, and none of the seeds that people choose


def scale_to_unit_variance(model: nn.Module, spec: NetworkSpec, parameters: dict[str, torch.Tensor]) -> None:
    """Scales each weight layer of each seed, in place, until the variance of its output is 1 to 0.1, in at most 10 tries.

    Mishkin & Matas 2015, arXiv 1511.06422, algorithm 1, on 256 Gaussian samples. One pass in forward order: a layer that runs is
    scaled at once, and what comes after it reads its new output. A layer whose output is constant stays as it is. One seed after
    the other, so that a seed's network does not depend on how many there are.

    Args:
        model: an `empty_network`; it stays as it is.
        spec: of the network.
        parameters: orthonormal ones, with a first dimension of seeds.
    """
    dtype = next(iter(parameters.values())).dtype
    model = copy.deepcopy(model).to(dtype)
    own = dict(model.named_parameters())
    names = [layer.module for layer in weight_layers(spec) if layer.role is not Role.GATE]
    generator = torch.Generator().manual_seed(_DATA_SEED)
    inputs = torch.randn(_NUM_SAMPLES, *input_shape(spec), generator=generator).to(dtype)
    with torch.no_grad():
        for index in range(len(next(iter(parameters.values())))):
            for name, parameter in own.items():
                parameter.copy_(parameters[name][index])
            _scale_in_one_pass(model, names, inputs)
            for name in names:
                parameters[f"{name}.weight"][index] = own[f"{name}.weight"]


def _scale_in_one_pass(model: nn.Module, names: list[str], inputs: torch.Tensor) -> None:
    waiting = set(names)
    handles = []
    for name in names:

        def scale(layer: nn.Module, layer_inputs: Any, output: torch.Tensor, name: str = name) -> torch.Tensor:
            # Of a layer that runs again (a cell at the next time step) the first output that varies counts.
            if name not in waiting or not float(output.var(correction=0)) > 0.0:
                return output
            waiting.remove(name)
            return _scaled_output(layer, layer_inputs, output)

        handles.append(model.get_submodule(name).register_forward_hook(scale))
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _scaled_output(layer: nn.Module, layer_inputs: Any, output: torch.Tensor) -> torch.Tensor:
    for _ in range(_MAX_TRIES):
        variance = float(output.var(correction=0))
        if abs(variance - 1.0) < _TOLERANCE or not 0.0 < variance < math.inf:
            break
        layer.weight.div_(math.sqrt(variance))  # type: ignore[operator]
        output = layer.forward(*layer_inputs)
    return output
