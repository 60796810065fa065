"""The ways to measure an ensemble, what each can run, and which one is the fastest for a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headwater.lab.ensembles.batched import bytes_per_mlp, mlp_stages
from headwater.lab.ensembles.chain import measure_chain
from headwater.lab.ensembles.cotangents import Cotangents
from headwater.lab.ensembles.error import EnsembleError
from headwater.lab.ensembles.layers import RECURRENT, measured_layers
from headwater.lab.ensembles.looped import measure_loop
from headwater.lab.ensembles.measurements import EnsembleMeasurements
from headwater.lab.ensembles.unrolled import UnrolledNet, unrolled_parameters
from headwater.lab.ensembles.vmapped import bytes_per_pass, measure_vmap
from headwater.lab.ensembles.whole_pass import Parameters
from headwater.networks.families import empty_network, weight_layers
from headwater.networks.specification import FAMILIES, NetworkSpec

Measure = Callable[[NetworkSpec, Parameters, Tensor, Cotangents], EnsembleMeasurements]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way.

    Args:
        families: that it can run.
        measure: the networks whose parameters are stacked.
        bytes_per_network: about how much memory one network more takes.
        is_gradient_exact: whether the gradient cannot leave its float format.
    """

    families: tuple[str, ...]
    measure: Measure
    bytes_per_network: Callable[[NetworkSpec, Tensor], int]
    is_gradient_exact: bool


def method_for(spec: NetworkSpec, name: str) -> Method:
    """The method of this name, or the fastest for "auto".

    The choice does not depend on the machine: methods differ in the last bits, and a sweep gives the same numbers everywhere.

    Raises:
        EnsembleError: there is no such method, or it cannot run this family.

    >>> method_for(NetworkSpec(), "auto") is METHODS["batched"]
    True
    """
    if name != "auto" and name not in METHODS:
        raise EnsembleError(f"expected method to be one of auto, {', '.join(METHODS)}, got {name!r}")
    chosen = _FASTEST[spec.family] if name == "auto" else name
    method = METHODS[chosen]
    if spec.family not in method.families:
        able = [other for other, its in METHODS.items() if spec.family in its.families]
        raise EnsembleError(
            f"method '{chosen}' is there for {', '.join(method.families)}, got family '{spec.family}': use one of auto, {', '.join(able)}"
        )
    return method


def _measure_batched(
    spec: NetworkSpec, parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    return measure_chain(mlp_stages(spec), parameters, inputs, cotangents)


def _measure_vmap(
    spec: NetworkSpec, parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    model, layers = _model(spec, inputs), measured_layers(spec)
    return measure_vmap(model, layers, _parameters(spec, parameters), inputs, cotangents)


def _measure_loop(
    spec: NetworkSpec, parameters: Parameters, inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    model, layers = _model(spec, inputs), measured_layers(spec)
    return measure_loop(model, layers, _parameters(spec, parameters), inputs, cotangents)


def _model(spec: NetworkSpec, inputs: Tensor) -> nn.Module:
    """The architecture. Its running statistics of batches, which no pass here reads, are left out: vmap cannot write them."""
    model = UnrolledNet(spec) if spec.family in RECURRENT else empty_network(spec)
    return torch.func.replace_all_batch_norm_modules_(model.to(inputs)).train()


def _parameters(spec: NetworkSpec, parameters: Parameters) -> Parameters:
    """The parameters under the names of `_model`."""
    return unrolled_parameters(spec, parameters) if spec.family in RECURRENT else parameters


def _bytes_of_pass(spec: NetworkSpec, inputs: Tensor) -> int:
    return bytes_per_pass(_model(spec, inputs), inputs)


def _bytes_of_mlp(spec: NetworkSpec, inputs: Tensor) -> int:
    return bytes_per_mlp(spec, len(inputs), inputs.itemsize)


def _bytes_of_parameters(spec: NetworkSpec, inputs: Tensor) -> int:
    return inputs.itemsize * sum(layer.num_weights + layer.num_biases for layer in weight_layers(spec))


METHODS = {
    "batched": Method(
        families=("mlp",), measure=_measure_batched, bytes_per_network=_bytes_of_mlp, is_gradient_exact=True
    ),
    "vmap": Method(families=FAMILIES, measure=_measure_vmap, bytes_per_network=_bytes_of_pass, is_gradient_exact=False),
    "loop": Method(
        families=FAMILIES, measure=_measure_loop, bytes_per_network=_bytes_of_parameters, is_gradient_exact=False
    ),
}
# Measured, in docs/benchmarks.md: vmap is faster than a loop for every family, at every size tried.
_FASTEST = {family: "batched" if family in METHODS["batched"].families else "vmap" for family in FAMILIES}
