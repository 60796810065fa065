"""Networks of any family at once, where PyTorch can vectorise their operations over stacked parameters (torch.func, torch.vmap)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headwater.lab.ensembles.cotangents import Cotangents
from headwater.lab.ensembles.layers import MeasuredLayer
from headwater.lab.ensembles.measurements import EnsembleMeasurements
from headwater.lab.ensembles.whole_pass import Parameters, forward, measurements_of


def measure_vmap(
    model: nn.Module, layers: Sequence[MeasuredLayer], parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    """Measurements by one vectorised forward pass and one backward pass through it.

    Args:
        model: of the networks' architecture, whatever its own parameters are.
        layers: what is measured.
        parameters: each of shape (networks, ...).
        inputs: of every network.
        cotangents: what goes into the backward pass.
    """
    stacked = {name: stack.detach() for name, stack in parameters.items()}
    weights = [stacked[layer.weight].requires_grad_() for layer in layers]
    probes = _probes(model, layers, stacked, inputs)

    def run(own: Parameters, own_probes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return forward(model, layers, own, inputs, own_probes)

    # PyTorch's fused attention on the CPU has no rule for vmap, which would run it network by network.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        output, returned = torch.vmap(run)(stacked, probes)
    cotangent, losses = cotangents.at(output.detach())
    gradients = torch.autograd.grad(output, [*probes, *weights], cotangent, materialize_grads=True)
    return measurements_of(
        layers,
        output=output.detach(),
        returned=[tensor.detach() for tensor in returned],
        activation_gradients=gradients[: len(layers)],
        weight_gradients=gradients[len(layers) :],
        cotangent=cotangent,
        losses=losses,
    )


def bytes_per_pass(model: nn.Module, inputs: Tensor) -> int:
    """About how much memory one network more takes: its parameters and their gradients, what the backward pass reads, and as much again.

    >>> bytes_per_pass(nn.Linear(4, 4), torch.zeros(2, 4))
    224
    """
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(inputs)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    return 2 * (parameters + sum(held.values()))


def _probes(model: nn.Module, layers: Sequence[MeasuredLayer], stacked: Parameters, inputs: Tensor) -> list[Tensor]:
    """Zeros to add to what each layer of each network returns; they take no memory until they have a gradient.

    What a layer returns under vmap is no tensor of the graph outside of it, so its gradient cannot be asked for.
    """
    first = {name: stack[0] for name, stack in stacked.items()}
    num_networks = len(next(iter(stacked.values())))
    with torch.no_grad():
        _, returned = forward(model, layers, first, inputs)
    return [tensor.new_zeros(()).expand(num_networks, *tensor.shape).requires_grad_() for tensor in returned]
