"""Forward and backward through a chain of layers of many networks at once, measured layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from headwater.lab.ensembles.cotangents import Cotangents
from headwater.lab.ensembles.measurements import EnsembleMeasurements, Floats
from headwater.lab.ensembles.scaling import LOG10_2, mean_absolutes, norms, recentred, root_mean_squares

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
    rms = [root_mean_squares(stage.own(stream.detach())) for stage, stream in zip(stages, streams, strict=True)]
    backward = _Backward(cotangent)
    for stage, source in zip(reversed(stages), reversed(sources), strict=True):
        backward.through(stage, parameters[stage.weight], source, streams.pop())
    return EnsembleMeasurements(
        layers=tuple(stage.layer for stage in stages),
        activation_rms=_columns(rms),
        gain_decades=_columns(backward.gain_decades[::-1]),
        weight_gradient_mean_abs=_columns(backward.weight_gradient_mean_abs[::-1]),
        weight_gradient_norm=_columns(backward.weight_gradient_norm[::-1]),
        cotangent_norm=backward.cotangent_norm,
        loss=losses,
        output_rms=root_mean_squares(outputs),
    )


def _forward(stages: Sequence[Stage], parameters: Parameters, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What each stage read and what it gave, each a graph of its own."""
    sources, streams = [inputs], []
    with torch.enable_grad():
        for stage in stages:
            streams.append(stage.apply(parameters, sources[-1]))
            sources.append(streams[-1].detach().requires_grad_())
    return sources[:-1], streams


class _Backward:
    """The gradient on its way from the output to the input, and what was measured on it, the output layer first."""

    def __init__(self, cotangent: Tensor) -> None:
        self.cotangent_norm = norms(cotangent)
        self.gain_decades: list[Floats] = []
        self.weight_gradient_mean_abs: list[Floats] = []
        self.weight_gradient_norm: list[Floats] = []
        self._gradient = cotangent
        self._exponents = np.zeros(len(cotangent), dtype=np.int64)

    def through(self, stage: Stage, weight: Tensor, source: Tensor, stream: Tensor) -> None:
        own = norms(stage.own(self._gradient))
        with np.errstate(divide="ignore", invalid="ignore"):  # log of 0, and 0 / 0
            self.gain_decades.append(np.log10(own / self.cotangent_norm) + self._exponents * np.float64(LOG10_2))
        sizes = own if self._gradient.shape[-1] == stage.width else norms(self._gradient)
        self._gradient, self._exponents = recentred(self._gradient, sizes, self._exponents)
        wanted = [weight, source] if source.requires_grad else [weight]
        weight_gradient, *rest = torch.autograd.grad(stream, wanted, self._gradient)
        self.weight_gradient_mean_abs.append(self._put_back(mean_absolutes(weight_gradient)))
        self.weight_gradient_norm.append(self._put_back(norms(weight_gradient)))
        if rest:
            self._gradient = rest[0]

    def _put_back(self, sizes: Floats) -> Floats:
        """What the sizes stand for; 0 and inf beyond float64."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(np.ldexp(sizes, self._exponents), dtype=np.float64)


def _columns(per_layer: Sequence[Floats]) -> Floats:
    return np.stack(per_layer, axis=1)
