"""What is measured of an ensemble, by plain autograd: one network at a time, in float64, with `retain_grad`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from headwater.lab.ensembles import EnsembleMeasurements
from headwater.networks import NetworkSpec, build


def measure_slowly(
    spec: NetworkSpec,
    seeds: Iterable[int],
    inputs: Tensor,
    layers: Sequence[tuple[str, str]],
    *,
    cotangent: Tensor | None = None,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> EnsembleMeasurements:
    """Measurements of networks whose gradients stay inside of float64.

    Args:
        spec: of the networks.
        seeds: one network each.
        inputs: of every network.
        layers: the module whose output is measured, and the weight whose gradient is.
        cotangent: of the output, or
        loss: of the output.
    """
    rows = [_row(spec, seed, inputs.double(), layers, cotangent, loss) for seed in seeds]
    columns = [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)]
    return EnsembleMeasurements(tuple(module for module, _ in layers), *columns)


def _row(spec, seed, inputs, layers, cotangent, loss):
    model = build(spec, seed, dtype=torch.float64)
    outputs: dict[str, Tensor] = {}

    def look(name):
        def keep(_module, _arguments, output):
            output.retain_grad()
            outputs[name] = output

        return keep

    for name, _ in layers:
        model.get_submodule(name).register_forward_hook(look(name))
    output = model(inputs)
    value = float("nan")
    if loss is None:
        output.backward(cotangent.double())
    else:
        result = loss(output)
        result.backward()
        value = result.item()
    weights = [model.get_parameter(weight).grad.abs() for _, weight in layers]
    top = _norm(output.grad)
    return (
        [_norm(outputs[name].detach()) / outputs[name].numel() ** 0.5 for name, _ in layers],
        [_log10(_norm(outputs[name].grad) / top) for name, _ in layers],
        [weight.mean().item() for weight in weights],
        [_norm(weight) for weight in weights],
        top,
        value,
        _norm(output.detach()) / output.numel() ** 0.5,
    )


def _norm(tensor: Tensor) -> float:
    return math.hypot(*tensor.flatten().tolist())  # which neither underflows nor overflows


def _log10(number: float) -> float:
    return math.log10(number) if number > 0.0 else -math.inf
