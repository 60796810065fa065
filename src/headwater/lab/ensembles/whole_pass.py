"""One forward and one backward pass of a module as a whole, with its parameters from outside, and what is measured on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from headwater.lab.ensembles.layers import MeasuredLayer
from headwater.lab.ensembles.measurements import EnsembleMeasurements, Floats
from headwater.lab.ensembles.scaling import mean_absolutes, norms, root_mean_squares

Parameters = Mapping[str, Tensor]


def forward(
    model: nn.Module,
    layers: Sequence[MeasuredLayer],
    parameters: Parameters,
    inputs: Tensor,
    probes: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The output, and what the measured layers returned.

    Args:
        model: whatever its own parameters are.
        layers: what is measured.
        parameters: of one network.
        inputs: of the network.
        probes: zeros that are added to what each layer returns, so that their gradients are those of what it returned.
    """
    with _tapped(model, layers, probes) as returned:
        output = torch.func.functional_call(model, dict(parameters), (inputs,))
    return output, [returned[layer.module] for layer in layers]


@contextmanager
def _tapped(
    model: nn.Module, layers: Sequence[MeasuredLayer], probes: Sequence[Tensor] | None
) -> Iterator[dict[str, Tensor]]:
    returned: dict[str, Tensor] = {}

    def tap(name: str, probe: Tensor | None) -> torch.utils.hooks.RemovableHandle:
        def keep(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
            returned[name] = output if probe is None else output + probe
            return returned[name]

        return model.get_submodule(name).register_forward_hook(keep)

    handles = [tap(layer.module, None if probes is None else probes[index]) for index, layer in enumerate(layers)]
    try:
        yield returned
    finally:
        for handle in handles:
            handle.remove()


def measurements_of(
    layers: Sequence[MeasuredLayer],
    *,
    output: Tensor,
    returned: Sequence[Tensor],
    activation_gradients: Sequence[Tensor],
    weight_gradients: Sequence[Tensor],
    cotangent: Tensor,
    losses: Floats,
) -> EnsembleMeasurements:
    """Measurements of a finished pass; the first dimension of every tensor counts networks."""
    cotangent_norm = norms(cotangent)
    with np.errstate(divide="ignore", invalid="ignore"):  # log of 0, and 0 / 0
        gains = [np.log10(norms(gradient) / cotangent_norm) for gradient in activation_gradients]
    return EnsembleMeasurements(
        layers=tuple(layer.module for layer in layers),
        activation_rms=np.stack([root_mean_squares(tensor) for tensor in returned], axis=1),
        gain_decades=np.stack(gains, axis=1),
        weight_gradient_mean_abs=np.stack([mean_absolutes(gradient) for gradient in weight_gradients], axis=1),
        weight_gradient_norm=np.stack([norms(gradient) for gradient in weight_gradients], axis=1),
        cotangent_norm=cotangent_norm,
        loss=losses,
        output_rms=root_mean_squares(output),
    )
