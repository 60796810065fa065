"""Many networks that differ by their seed alone, measured as one batched computation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headwater.lab.ensembles.arguments import check_arguments, checked_seeds
from headwater.lab.ensembles.cotangents import Cotangents, Loss
from headwater.lab.ensembles.float_range import leaves_float32, with_rows
from headwater.lab.ensembles.measurements import EnsembleMeasurements, joined
from headwater.lab.ensembles.methods import Method, method_for
from headwater.networks.initialisation import initial_parameters
from headwater.networks.specification import NetworkSpec

# Enough for full speed: more networks at a time save calls, but their memory comes fresh from the system, page by page.
_MAX_EXTRA_BYTES = 128 * 2**20


def measure_ensemble(
    spec: NetworkSpec,
    seeds: Iterable[int],
    inputs: Tensor,
    *,
    cotangent: Tensor | None = None,
    targets: Any = None,
    loss: Loss | None = None,
    method: str = "auto",
    max_extra_bytes: int = _MAX_EXTRA_BYTES,
) -> EnsembleMeasurements:
    """How signal and gradient go through `build(spec, seed)` for every seed, layer by layer.

    The networks run in the dtype and on the device of the inputs, in training mode, one forward and one backward pass each. All methods
    give the same up to rounding. A float32 network whose values come near the ends of float32 is measured in float64, so that the numbers are
    those of the architecture and not of the format; "batched" keeps the gradient's exponent apart besides, so that no depth is too deep
    for `gain_decades`. (Other methods end at 1e-308, and so do the weight gradients.)

    Args:
        spec: of the networks.
        seeds: one network each, any whole numbers; the rows are in their order.
        inputs: of every network, samples first.
        cotangent: what goes into the backward pass of every network, of its output's shape. Without it and without a loss: random
            N(0, 1), the same for every seed, specification and call with outputs of this shape, so that variants can be paired.
        targets: what the loss compares with.
        loss: `loss(output, targets)`, or `loss(output)` without targets, a scalar.
        method: "batched" (batched matrix products; mlps), "vmap" (torch.vmap over stacked parameters), "loop" (one network after the other),
            or "auto": the fastest for this family as measured in docs/benchmarks.md.
        max_extra_bytes: seeds run in groups that take about this much memory.

    Raises:
        EnsembleError: there are no seeds, an argument has another type or shape than expected, or the method cannot run this family.
        SpecificationError: there is no such initialisation for this activation.

    >>> spec = NetworkSpec(depth=50, width=16, activation="gelu")
    >>> measured = measure_ensemble(spec, range(100), torch.ones(8, 16))
    >>> measured.gain_decades.shape
    (100, 51)
    >>> bool(-28 < measured.gain_decades[:, 0].mean() < -24)  # theory: 50 log10 0.29 = -26.9, less at first, where inputs are large
    True
    """
    seeds = checked_seeds(seeds)
    check_arguments(spec, inputs, max_extra_bytes)
    cotangents = Cotangents(given=cotangent, loss=loss, targets=targets)
    chosen, inputs = method_for(spec, method), inputs.detach()
    size = max(1, max_extra_bytes // chosen.bytes_per_network(spec, inputs))
    groups = [seeds[begin : begin + size] for begin in range(0, len(seeds), size)]
    return joined([_measure_group(chosen, spec, group, inputs, cotangents) for group in groups])


def _measure_group(
    method: Method, spec: NetworkSpec, seeds: Sequence[int], inputs: Tensor, cotangents: Cotangents
) -> EnsembleMeasurements:
    parameters = {
        name: stack.to(inputs.device) for name, stack in initial_parameters(spec, seeds, dtype=inputs.dtype).items()
    }
    measurements = method.measure(spec, parameters, inputs, cotangents)
    if inputs.dtype == torch.float64:
        return measurements
    rows = leaves_float32(measurements, is_gradient_exact=method.is_gradient_exact)
    if not rows.any():
        return measurements
    # In float64 everything is twice as large, and comes beside the parameters in float32: a quarter of the networks at a time.
    doubled = []
    for part in np.array_split(np.flatnonzero(rows), min(4, np.count_nonzero(rows))):
        kept = torch.from_numpy(part).to(inputs.device)
        own = {name: stack[kept].double() for name, stack in parameters.items()}
        doubled.append(method.measure(spec, own, inputs.double(), cotangents))
    return with_rows(measurements, rows, joined(doubled))
