"""Forward and backward through a chain of layers of many networks at once, measured layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headwater.lab.ensembles.cotangents import Cotangents
from headwater.lab.ensembles.measurements import EnsembleMeasurements, Floats
from headwater.lab.ensembles.scaling import LOG10_2, Integers, mean_absolutes, norms, recentred, root_mean_squares

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One layer of every network: all that the next layer reads has gone through it.

    Args:
        layer: its name.
        weight: the parameter whose gradient is measured.
        apply: the layer's stacked parameters and the stream, (networks, samples, features), give the next stream.
        width: how many of the stream's last features are what the layer returns.
    """

    layer: str
    weight: str
    apply: Callable[[Parameters, Tensor], Tensor]
    width: int

    def own(self, stream: Tensor) -> Tensor:
        """What the layer returns, of a stream that also carries what the layers before it returned."""
        return stream if stream.shape[-1] == self.width else stream[..., -self.width :]


def measure_chain(
    stages: Sequence[Stage], parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    """Measurements of the networks whose parameters are stacked in the first dimension.

    Backward goes layer by layer: between two layers the gradient of every network is brought back to the middle of its
    float format, and its exponent kept (`recentred`). So a float32 network of a thousand vanishing layers has the right decades.

    Args:
        stages: in forward order, the output layer last.
        parameters: each of shape (networks, ...).
        inputs: (samples, features), the same for every network.
        cotangents: what goes into the backward pass.
    """
    parameters = dict(parameters)
    for stage in stages:
        parameters[stage.weight] = parameters[stage.weight].detach().requires_grad_()
    num_networks = len(parameters[stages[0].weight])
    sources, streams = _forward(stages, parameters, inputs.expand(num_networks, *inputs.shape))
    outputs = streams[-1].detach()
    cotangent, losses = cotangents.at(outputs)
    activation_rms = [
        root_mean_squares(stage.own(stream.detach())) for stage, stream in zip(stages, streams, strict=True)
    ]
    measured = _backward(stages, parameters, sources, streams, cotangent)
    exponents, cotangent_norm = _columns([layer.exponents for layer in measured]), norms(cotangent)
    relative = _columns([layer.gradient_norm for layer in measured]) / cotangent_norm[:, None]
    with np.errstate(
        divide="ignore", invalid="ignore", over="ignore", under="ignore"
    ):  # what no float holds is 0 or inf
        return EnsembleMeasurements(
            layers=tuple(stage.layer for stage in stages),
            activation_rms=_columns(activation_rms),
            gain_decades=np.log10(relative) + _columns([layer.exponents_above for layer in measured]) * LOG10_2,
            weight_gradient_mean_abs=np.ldexp(_columns([layer.weight_mean_abs for layer in measured]), exponents),
            weight_gradient_norm=np.ldexp(_columns([layer.weight_norm for layer in measured]), exponents),
            cotangent_norm=cotangent_norm,
            loss=losses,
            output_rms=activation_rms[-1],
        )


def _forward(stages: Sequence[Stage], parameters: Parameters, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What each stage read and what it gave, each a graph of its own."""
    sources, streams = [inputs], []
    with torch.enable_grad():
        for stage in stages:
            streams.append(stage.apply(parameters, sources[-1]))
            sources.append(streams[-1].detach().requires_grad_())
    return sources[:-1], streams


class _Measured(NamedTuple):
    """Of one layer and every network, (networks,): norms, and the exponents of what they are multiplied by."""

    gradient_norm: Floats
    exponents_above: Integers
    weight_mean_abs: Floats
    weight_norm: Floats
    exponents: Integers


def _backward(
    stages: Sequence[Stage], parameters: Parameters, sources: Sequence[Tensor], streams: list[Tensor], gradient: Tensor
) -> list[_Measured]:
    """What was measured on the way from the output to the input, in forward order; the streams are gone afterwards."""
    exponents = np.zeros(len(gradient), dtype=np.int64)
    measured = []
    for stage, source in zip(reversed(stages), reversed(sources), strict=True):
        above, own = exponents, norms(stage.own(gradient))
        sizes = own if gradient.shape[-1] == stage.width else norms(gradient)
        gradient, exponents = recentred(gradient, sizes, exponents)
        weight = parameters[stage.weight]
        wanted = [weight, source] if source.requires_grad else [weight]
        weight_gradient, *rest = torch.autograd.grad(streams.pop(), wanted, gradient)
        measured.append(_Measured(own, above, mean_absolutes(weight_gradient), norms(weight_gradient), exponents))
        gradient = rest[0] if rest else gradient
    return measured[::-1]


def _columns(per_layer: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.stack(per_layer, axis=1)
