"""Networks one after the other, by plain autograd: what works for any of them, and what the fast ways are held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from headwater.lab.ensembles.cotangents import Cotangents
from headwater.lab.ensembles.layers import MeasuredLayer
from headwater.lab.ensembles.measurements import EnsembleMeasurements, joined
from headwater.lab.ensembles.whole_pass import Parameters, forward, measurements_of


def measure_loop(
    model: nn.Module, layers: Sequence[MeasuredLayer], parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    """Measurements by one forward and one backward pass for each network.

    Args:
        model: of the networks' architecture, whatever its own parameters are.
        layers: what is measured.
        parameters: each of shape (networks, ...).
        inputs: of every network.
        cotangents: what goes into the backward pass.
    """
    parts = []
    for index in range(len(next(iter(parameters.values())))):
        own = {name: stack[index].detach().requires_grad_() for name, stack in parameters.items()}
        parts.append(_measure_one(model, layers, own, inputs, cotangents))
    return joined(parts)


def _measure_one(
    model: nn.Module, layers: Sequence[MeasuredLayer], parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    with torch.enable_grad():
        output, returned = forward(model, layers, parameters, inputs)
    cotangent, losses = cotangents.at(output.detach().unsqueeze(0))
    weights = [parameters[layer.weight] for layer in layers]
    gradients = torch.autograd.grad(output, [*returned, *weights], cotangent[0], materialize_grads=True)
    stacks = [gradient.unsqueeze(0) for gradient in gradients]
    return measurements_of(
        layers,
        output=output.detach().unsqueeze(0),
        returned=[tensor.detach().unsqueeze(0) for tensor in returned],
        activation_gradients=stacks[: len(layers)],
        weight_gradients=stacks[len(layers) :],
        cotangent=cotangent,
        losses=losses,
    )
