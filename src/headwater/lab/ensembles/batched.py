"""Mlps of many seeds as one computation: a batched matrix product for each layer, for every norm and shortcut."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from headwater.lab.ensembles.chain import Parameters, Stage
from headwater.networks.activation_functions import activation_module
from headwater.networks.mlp import num_layer_inputs
from headwater.networks.normalisation import norm_module
from headwater.networks.shortcuts import SUMMED, branch_alpha, branch_scale
from headwater.networks.specification import NetworkSpec

Apply = Callable[[Parameters, Tensor], Tensor]


def mlp_stages(spec: NetworkSpec) -> list[Stage]:
    """What `headwater.networks.mlp.Mlp` computes, on stacked parameters: the hidden layers, then the output layer.

    >>> [stage.layer for stage in mlp_stages(NetworkSpec(depth=2))]
    ['layers.0', 'layers.1', 'head']
    """
    hidden = [
        Stage(layer=f"layers.{i}", weight=f"layers.{i}.linear.weight", apply=_layer(spec, i), width=spec.width)
        for i in range(spec.depth)
    ]
    return [*hidden, Stage(layer="head", weight="head.weight", apply=_linear("head"), width=spec.num_outputs)]


def bytes_per_mlp(spec: NetworkSpec, num_samples: int, itemsize: int) -> int:
    """About how much memory one network more takes: parameters, what the backward pass reads, the largest weight gradients.

    >>> bytes_per_mlp(NetworkSpec(depth=1, width=8, num_inputs=8, num_outputs=8), num_samples=1, itemsize=4)
    1696
    """
    num_inputs = [num_layer_inputs(spec, index) for index in range(spec.depth + 1)]
    widths = [spec.width] * spec.depth + [spec.num_outputs]
    weights = [(size + 1) * width for size, width in zip(num_inputs, widths, strict=True)]
    num_parameters = (2 if spec.shortcut == "highway" else 1) * sum(weights)
    # What a layer reads and gives, and what its activation, norm and shortcut keep for the backward pass.
    num_kept = 3 + (2 if spec.normalisation != "none" else 0) + (3 if spec.shortcut == "highway" else 0)
    num_activations = num_samples * sum(size + num_kept * width for size, width in zip(num_inputs, widths, strict=True))
    return (num_parameters + 3 * max(weights) + num_activations) * itemsize


def _layer(spec: NetworkSpec, index: int) -> Apply:
    """What `headwater.networks.mlp.MlpLayer` computes."""
    name = f"layers.{index}"
    branch = _branch(spec, index)
    shortcut = "none" if index == 0 else spec.shortcut
    if shortcut in SUMMED:
        return _summed(branch, branch_scale(spec), None if branch_alpha(spec) is None else f"{name}.alpha")
    if shortcut == "highway":
        return _gated(branch, _linear(f"{name}.gate"))
    if shortcut == "dense" and index > 0:
        return lambda parameters, x: torch.cat((x, branch(parameters, x)), dim=-1)
    return branch


def _branch(spec: NetworkSpec, index: int) -> Apply:
    """The layer without its shortcut."""
    name = f"layers.{index}"
    linear, activation = _linear(f"{name}.linear"), activation_module(spec.activation)
    is_before = spec.norm_position == "pre"
    if spec.normalisation == "none" or (index == 0 and is_before):
        return lambda parameters, x: activation(linear(parameters, x))
    norm = _NORMS[spec.normalisation](f"{name}.norm", vars(norm_module(spec.normalisation, spec.width))["eps"])
    if is_before:
        return lambda parameters, x: activation(linear(parameters, norm(parameters, x)))
    return lambda parameters, x: activation(norm(parameters, linear(parameters, x)))


def _linear(name: str) -> Apply:
    def apply(parameters: Parameters, x: Tensor) -> Tensor:
        return torch.baddbmm(parameters[f"{name}.bias"].unsqueeze(1), x, parameters[f"{name}.weight"].mT)

    return apply


def _summed(branch: Apply, scale: float, alpha: str | None) -> Apply:
    def apply(parameters: Parameters, x: Tensor) -> Tensor:
        grown = branch(parameters, x)
        if alpha is None:
            return torch.add(x, grown, alpha=scale)
        return torch.addcmul(x, grown, parameters[alpha].view(-1, 1, 1), value=scale)

    return apply


def _gated(branch: Apply, gate: Apply) -> Apply:
    def apply(parameters: Parameters, x: Tensor) -> Tensor:
        return torch.lerp(x, branch(parameters, x), torch.sigmoid(gate(parameters, x)))

    return apply


def _batch_norm(name: str, eps: float) -> Apply:
    def apply(parameters: Parameters, x: Tensor) -> Tensor:
        num_networks, num_samples, width = x.shape
        # The features of all networks side by side are the features of one: PyTorch's own kernel, four times as fast as a mean
        # and a variance over the middle dimension.
        beside = x.transpose(0, 1).reshape(num_samples, num_networks * width)
        weight, bias = parameters[f"{name}.weight"].flatten(), parameters[f"{name}.bias"].flatten()
        normed = F.batch_norm(beside, None, None, weight, bias, training=True, eps=eps)
        return normed.view(num_samples, num_networks, width).transpose(0, 1)

    return apply


def _layer_norm(name: str, eps: float) -> Apply:
    def apply(parameters: Parameters, x: Tensor) -> Tensor:
        weight, bias = parameters[f"{name}.weight"].unsqueeze(1), parameters[f"{name}.bias"].unsqueeze(1)
        return torch.addcmul(bias, F.layer_norm(x, x.shape[-1:], eps=eps), weight)

    return apply


def _rms_norm(name: str, eps: float) -> Apply:
    def apply(parameters: Parameters, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=eps) * parameters[f"{name}.weight"].unsqueeze(1)

    return apply


_NORMS: dict[str, Callable[[str, float], Apply]] = {"batch": _batch_norm, "layer": _layer_norm, "rms": _rms_norm}
