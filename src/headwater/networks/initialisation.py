"""Initial parameters of many seeds at once: one flat draw a seed, then every layer scaled over all seeds together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from headwater.networks.critical_point import critical_point
from headwater.networks.families import empty_network, weight_layers
from headwater.networks.layer_plan import LayerPlan, Role
from headwater.networks.lsuv import scale_to_unit_variance
from headwater.networks.shortcuts import GATE_BIAS, deepnorm_beta, fixup_factor
from headwater.networks.specification import NetworkSpec
from headwater.networks.variates import standard_variates

_LEAKY_SLOPE = 0.01  # nn.LeakyReLU's
_DEFAULT_WEIGHT_VARIANCE = 1.0 / 3.0  # of U(±1), which PyTorch's default is times 1/sqrt(fan_in)


def initial_parameters(
    spec: NetworkSpec, seeds: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The parameters of `build(spec, seed)` for each seed, stacked: a leading dimension of len(seeds) for each name.

    Bit for bit those of the single networks. Standard variates come from one generator a seed, seeded by it: uniform for
    "default", normal for the rest. The global generators stay as they are. All is on the CPU. Tensors may be views of one another's memory.

    Args:
        spec: of the networks.
        seeds: any whole numbers.
        dtype: of the parameters; variates are drawn in float32 for all, so that a seed's network is the same in each.

    >>> {name: tuple(p.shape) for name, p in initial_parameters(NetworkSpec(depth=1, width=8), range(3)).items()}
    {'layers.0.linear.weight': (3, 8, 16), 'layers.0.linear.bias': (3, 8), 'head.weight': (3, 4, 8), 'head.bias': (3, 4)}
    """
    with on_cpu():
        return parameters_of(empty_network(spec), spec, seeds, dtype=dtype)


def on_cpu() -> AbstractContextManager[object]:
    """Makes new tensors CPU tensors, whatever torch.set_default_device says: a seed's numbers are those of the CPU's generator.

    >>> with on_cpu():
    ...     torch.zeros(1).device.type
    'cpu'
    """
    device = torch.device("cpu")
    return nullcontext() if torch.get_default_device() == device else device


def parameters_of(
    model: nn.Module, spec: NetworkSpec, seeds: Sequence[int], *, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """`initial_parameters` by an `empty_network` that exists already, which stays as it is."""
    drawn = _drawn(spec, list(seeds), dtype)
    parameters = {
        name: drawn[name] if name in drawn else parameter.detach().to(dtype).repeat(len(seeds), *[1] * parameter.ndim)
        for name, parameter in model.named_parameters()
    }
    if spec.initialisation == "lsuv":
        scale_to_unit_variance(model, spec, parameters)
    return parameters


def layer_variances(spec: NetworkSpec, layer: LayerPlan) -> tuple[float, float]:
    """sigma_w² (variance of a weight times fan-in) and sigma_b² (variance of a bias) of a layer at initialisation.

    LSUV's are those before it scales. The factors of Fixup and DeepNorm are in them.

    >>> head = weight_layers(NetworkSpec(width=64))[-1]
    >>> layer_variances(NetworkSpec(initialisation="he"), head)
    (2.0, 0.0)
    """
    weight_variance, bias_variance = _base_variances(spec, layer)
    if layer.role is Role.GATE:
        return weight_variance, bias_variance
    weight_variance = weight_variance if spec.weight_variance is None else spec.weight_variance
    if layer.role is Role.RECURRENT and spec.initialisation != "default":
        bias_variance = 0.0
    elif spec.bias_variance is not None:
        bias_variance = spec.bias_variance
    return weight_variance * _role_factor(spec, layer.role) ** 2, bias_variance


def _base_variances(spec: NetworkSpec, layer: LayerPlan) -> tuple[float, float]:
    glorot = 2.0 * layer.fan_in / (layer.fan_in + layer.fan_out)
    if layer.role is Role.GATE:
        return _DEFAULT_WEIGHT_VARIANCE, 0.0
    match spec.initialisation:
        case "default":
            fan = layer.default_fan or layer.fan_in
            return _DEFAULT_WEIGHT_VARIANCE * layer.fan_in / fan, _DEFAULT_WEIGHT_VARIANCE / fan
        case "glorot" | "deepnorm":
            return glorot, 0.0
        case "he" | "fixup" | "rezero":
            return 2.0 / (1.0 + (_LEAKY_SLOPE**2 if spec.activation == "leaky_relu" else 0.0)), 0.0
        case "critical":
            return _critical_variances(spec, layer)
        case _:  # lecun, orthogonal, lsuv
            return 1.0, 0.0


def _critical_variances(spec: NetworkSpec, layer: LayerPlan) -> tuple[float, float]:
    if spec.weight_variance is not None and spec.bias_variance is not None:
        return spec.weight_variance, spec.bias_variance
    point = critical_point(spec.activation if layer.reads_activation else "linear")
    return point.weight_variance, point.bias_variance


def _role_factor(spec: NetworkSpec, role: Role) -> float:
    """What Fixup and DeepNorm multiply a layer's weights by."""
    if spec.initialisation == "fixup":
        return {Role.BRANCH: fixup_factor(spec.num_blocks), Role.BRANCH_END: 0.0, Role.HEAD: 0.0}.get(role, 1.0)
    if spec.initialisation == "deepnorm" and role in (Role.BRANCH, Role.BRANCH_END):
        return deepnorm_beta(spec.num_blocks)
    return 1.0


def _drawn(spec: NetworkSpec, seeds: list[int], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    layers = weight_layers(spec)
    gates = [layer for layer in layers if layer.role is Role.GATE]
    others = [layer for layer in layers if layer.role is not Role.GATE]
    is_uniform = spec.initialisation == "default"
    # One draw for each part, since a draw's last numbers depend on how long it is.
    sizes = [sum(layer.num_weights + layer.num_biases for layer in part) for part in (others, gates)]
    parameters: dict[str, torch.Tensor] = {}
    for part, variates in zip((others, gates), standard_variates(seeds, sizes, is_uniform=is_uniform), strict=True):
        begin, variates_of_dtype = 0, variates.to(dtype)
        for layer in part:
            end = begin + layer.num_weights
            weights, biases = variates_of_dtype[:, begin:end], variates_of_dtype[:, end : end + layer.num_biases]
            _scale(spec, layer, weights, biases, is_uniform)
            parameters[f"{layer.module}.weight"] = weights.unflatten(1, layer.shape)
            if layer.has_bias:
                parameters[f"{layer.module}.bias"] = biases
            begin = end + layer.num_biases
    return parameters


def _scale(spec: NetworkSpec, layer: LayerPlan, weights: torch.Tensor, biases: torch.Tensor, is_uniform: bool) -> None:
    """Standard variates to parameters, in place: (seeds, numbers)."""
    weight_variance, bias_variance = layer_variances(spec, layer)
    of_variate = 1.0 / 3.0 if is_uniform else 1.0
    if spec.initialisation in ("orthogonal", "lsuv") and layer.role is not Role.GATE:
        num_rows = layer.num_outputs // layer.num_parts
        for part in weights.view(len(weights), layer.num_parts, num_rows, layer.fan_in).unbind(1):
            _orthogonalise(part)
        weights.mul_(math.sqrt(weight_variance * max(num_rows / layer.fan_in, 1.0)))
    else:
        weights.mul_(math.sqrt(weight_variance / of_variate / layer.fan_in))
    if layer.role is Role.GATE:
        biases.fill_(GATE_BIAS)
    else:
        biases.mul_(math.sqrt(bias_variance / of_variate))


def _orthogonalise(matrices: torch.Tensor) -> None:
    """Normal matrices (seeds, n, m) to uniformly distributed ones with orthonormal rows, or columns where n > m, in place.

    By QR, with the signs of R's diagonal in Q (Mezzadri 2007, arXiv math-ph/0609050): LAPACK's own signs are not random.
    """
    num_rows, num_columns = matrices.shape[1:]
    tall = matrices if num_rows >= num_columns else matrices.mT
    # Rows of zeros up to a multiple of 64 bytes: LAPACK's rounding depends on where a matrix lies in memory, so without them
    # a matrix could have another last bit alone than among others.
    padding = (0, 0, 0, -tall.shape[1] % 16)
    q, r = torch.linalg.qr(F.pad(tall, padding))
    signs = torch.where(r.diagonal(dim1=1, dim2=2) < 0.0, -1.0, 1.0).to(q.dtype)
    tall.copy_(q[:, : tall.shape[1]] * signs[:, None, :])
