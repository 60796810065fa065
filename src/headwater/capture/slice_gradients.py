"""The weight gradients of the slices of a batch, summed up so that signal and noise can be told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from headwater.capture import torch_internals
from headwater.capture.passes import arguments_of, loss_of
from headwater.capture.problem import Problem
from headwater.capture.random_states import random_states, reseeded
from headwater.capture.slices import CannotTellApartError, Cutting, mapped
from headwater.recording import Combine, Recording, Series, SignalKind

GRADIENT_NOISE = "gradient_noise_sums"
# All gradients are held at once by vmap: 64 MiB of float32.
_MOST_HELD = 2**24
# Relative to the batch's gradient. A mean over tokens of which the slices have different numbers stays below it.
_LARGEST_DIFFERENCE = 0.5
_SAFE = 1e-25  # far from float32's smallest and largest numbers, also for the squares of most entries
_ROUNDING = 1e-3  # of a gradient that cancels out over the batch, relative to the slices' own


def slice_gradients(
    model: nn.Module, problem: Problem, recording: Recording, *, most: int, seed: int, scale_exponent: int = 0
) -> list[Series]:
    """For each trainable parameter, the sums from which signal and noise of its gradient follow.

    The batch is cut into n slices of b samples; G_k is what slice k contributes to the gradient of a loss that sums over samples.
    Entries, all of which add up over recordings: n; the number of samples, n b; n b²; sum_k |G_k|²; sum_{k != l} G_k . G_l, whose
    expectation is (n² - n) b² |mu|² with mu the expected gradient of one sample; and (n² - n) b² (McCandlish et al. 2018, arXiv
    1812.06162, appendix A.1).

    Args:
        model: which ran, inside of `preserved`.
        problem: the whole batch.
        recording: of the whole batch, with whose gradients the slices' are compared.
        most: slices.
        seed: of the random generators while they run.
        scale_exponent: the loss is multiplied by 2 to this power, and what is returned divided by it.

    Raises:
        CannotTellApartError: there are fewer than two samples, no loss, no real parameters, or the slices' gradients do not make up the batch's.
    """
    cutting = Cutting.of(problem, most)
    parameters = _parameters(model)
    if not parameters:
        raise CannotTellApartError("no parameter that trains is a plain tensor of real numbers")
    num_held = cutting.number * sum(parameter.numel() for parameter in parameters.values())
    before = reseeded(seed)
    sums = None
    if num_held <= _MOST_HELD:
        sums = _by_vmap(model, problem, cutting, parameters, 2.0**scale_exponent)
    if sums is None:
        before = reseeded(seed)
        sums = _by_loop(model, cutting.parts(problem), parameters, 2.0**scale_exponent)
    is_random = random_states() != before
    unscale = 4.0**-scale_exponent
    unscaled = {name: (own * unscale, whole * unscale) for name, (own, whole) in sums.items()}
    factor = _factor_per_sample(unscaled, recording, cutting, is_random=is_random)
    n, b = cutting.number, cutting.length
    return [
        _series(name, [n, n * b, n * b**2, factor * own, factor * (whole - own), (n**2 - n) * b**2])
        for name, (own, whole) in unscaled.items()
        if math.isfinite(own) and math.isfinite(whole)
    ]


def _factor_per_sample(sums: Sums, recording: Recording, cutting: Cutting, *, is_random: bool) -> float:
    """By what |G|² of a slice is multiplied to be that of a sum over samples: 1 for a sum, length² for a mean.

    Raises:
        CannotTellApartError: the slices' gradients make up neither the sum nor the mean that the batch's gradient is.
    """
    batch = {
        f"{signal.module}.{signal.item}".strip("."): signal.stats.norm
        for signal in recording.select(SignalKind.WEIGHT_GRADIENT)
    }
    pairs = [(whole**0.5, batch[name]) for name, (_, whole) in sums.items() if name in batch]
    rounding = _ROUNDING * sum(own for own, _ in sums.values()) ** 0.5
    mean_error = _difference([(whole / cutting.number, norm) for whole, norm in pairs], rounding)
    left_out = cutting.size / (cutting.number * cutting.length)
    sum_error = _difference([(whole * left_out, norm) for whole, norm in pairs], rounding)
    # Other random numbers, other gradients: there is nothing to compare.
    if not is_random and not min(mean_error, sum_error) <= _LARGEST_DIFFERENCE:
        raise CannotTellApartError(
            "the gradients of its slices do not make up the batch's: batch statistics, or a loss that compares samples"
        )
    return 1.0 if sum_error < mean_error else float(cutting.length**2)


def _difference(pairs: list[tuple[float, float]], rounding: float) -> float:
    """Relative to the batch's norm, how far the norms are apart, over all parameters together."""
    size = math.hypot(*(norm for _, norm in pairs))
    apart = math.hypot(*(made - norm for made, norm in pairs))
    return apart / (size + rounding) if size + rounding > 0.0 else 0.0


def _series(name: str, values: list[float]) -> Series:
    module, _, item = name.rpartition(".")
    return Series(GRADIENT_NOISE, module, -1, item, Combine.SUM, np.array(values))


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.is_floating_point() and type(parameter.data) is Tensor
    }


def _loss_of(model: Callable[..., Any], part: Problem, loss_scale: float) -> Tensor:
    args, kwargs = arguments_of(part.inputs)
    loss = loss_of(part, model(*args, **kwargs))
    if loss is None:
        raise CannotTellApartError("there is no loss")
    return loss.reshape(()) * loss_scale


Sums = dict[str, tuple[float, float]]  # of each parameter: the sum of squared norms, and the squared norm of the sum


def _by_loop(model: nn.Module, parts: list[Problem], parameters: Mapping[str, Tensor], loss_scale: float) -> Sums:
    own = dict.fromkeys(parameters, 0.0)
    whole: dict[str, Tensor] = {}
    for part in parts:
        loss = _loss_of(model, part, loss_scale)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, found in zip(parameters, gradients, strict=True):
            if found is None:
                continue
            gradient = found if found.layout is torch.strided else found.to_dense()
            own[name] += _squared_norm(gradient)
            if name in whole:
                whole[name] += gradient
            else:  # 16 bits would round the sum
                whole[name] = gradient.to(_wide(gradient), copy=True)
    return {name: (own[name], _squared_norm(total)) for name, total in whole.items()}


def _by_vmap(
    model: nn.Module, problem: Problem, cutting: Cutting, parameters: Mapping[str, Tensor], loss_scale: float
) -> Sums | None:
    """The same, all slices at once; None for a model that vmap cannot run, or whose hooks may keep what they see."""
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None  # vmap's wrappers are dead afterwards
    stacked: list[Tensor] = []

    def stack(tensor: Tensor) -> Tensor:
        if cutting.cuts(tensor):
            stacked.append(cutting.stacked(tensor.detach()))
        return tensor

    def loss(values: dict[str, Tensor], tensors: list[Tensor]) -> Tensor:
        remaining = iter(tensors)
        part = mapped(problem, lambda tensor: next(remaining) if cutting.cuts(tensor) else tensor)
        return _loss_of(lambda *args, **kwargs: functional_call(model, values, args, kwargs), part, loss_scale)

    try:
        mapped(problem, stack)
        constants = {name: parameter.detach() for name, parameter in parameters.items()}
        # An operation without a batching rule runs slice by slice, which is no news to the user.
        with torch_internals.ignored_warning("There is a performance drop because"):
            gradients = vmap(grad(loss), in_dims=(None, 0), randomness="different")(constants, stacked)
        return {
            name: (_squared_norm(gradient), _squared_norm(gradient.to(_wide(gradient)).sum(0)))
            for name, gradient in gradients.items()
        }
    except CannotTellApartError:
        raise
    except Exception:  # noqa: BLE001 - whatever a model does that vmap refuses (in-place, .item(), custom functions)
        return None


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _squared_norm(tensor: Tensor) -> float:
    if tensor.dtype == torch.float32:  # half the time, where float32 holds the square
        flat = tensor.detach().reshape(-1)
        square = float(flat @ flat)
        if _SAFE < square < 1.0 / _SAFE:
            return square
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) ** 2
