"""Whether gradients that are exactly zero come back after one step of training, or two: by taking it, and putting all back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from headwater.capture import torch_internals
from headwater.capture.optimizer_copy import parameters_of
from headwater.capture.passes import arguments_of, called, loss_of, modules_of, other_leaves, roots_of
from headwater.capture.preservation import gradients_preserved, preserved
from headwater.capture.problem import Problem
from headwater.recording import Combine, Recording, Series, SignalKind, extended

NUM_STEPS_TO_GRADIENT = "num_steps_to_gradient"  # of a parameter whose gradient is exactly zero; inf: not after two
_NUM_STEPS = 2  # a zero behind another one (LoRA inside ReZero) needs two
# A step changes each parameter by a thousandth of its RMS: enough to end a zero, and too little to end a dead unit.
_RELATIVE_STEP = 1e-3


def look_ahead(model: nn.Module, problem: Problem, recording: Recording, seed: int) -> Recording:
    """The recording with, for each parameter whose gradient is exactly zero, after how many steps it has one: 1, 2, or inf.

    A step goes along the gradients, by a thousandth of the size of each parameter that the optimiser holds (of all that train,
    without one): whether a zero ends does not depend on the rate. The passes read the same batch with the same random numbers. A
    model without such parameters is not run again, nor is a lazy one, nor one of several ranks. Nothing that the passes do
    stays, and what goes wrong in them is only noted.

    Args:
        model: that ran, with the parameters that the recording is of.
        problem: to run again.
        recording: of the pass, with gradients.
        seed: of the random cotangents.

    >>> from headwater.capture import observe
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    >>> with torch.no_grad():
    ...     _ = model[1].weight.zero_()
    >>> found = observe(Problem(model, torch.ones(2, 1))).series(NUM_STEPS_TO_GRADIENT)
    >>> [(series.module, series.item, series.values.tolist()) for series in found]
    [('0', 'weight', [1.0]), ('0', 'bias', [1.0])]
    """
    if model is not problem.model or not recording.context.cotangent:  # a lazy model's copy is spent after its pass
        return recording
    waiting = _without_gradient(recording)
    # Of several ranks one might have such a parameter and another none: the one would wait for the other for ever.
    if not waiting or torch_internals.is_one_of_several_ranks():
        return recording
    try:
        found = _steps_to_gradient(model, problem, recording, waiting, seed)
    except Exception as error:  # noqa: BLE001 - nothing else depends on it, and the diagnosis shall not fail
        note = f"Whether zero gradients end after one step was not observed: {error!r:.200}."
        return replace(recording, context=replace(recording.context, notes=(*recording.context.notes, note)))
    return extended(recording, series=[_series(name, steps) for name, steps in found.items()])


def _without_gradient(recording: Recording) -> list[str]:
    """Full names of the parameters that got a gradient of exact zeros; none where one is not finite."""
    signals = recording.select(SignalKind.WEIGHT_GRADIENT)
    if any(signal.stats.nonfinite_count for signal in signals):
        return []
    by_name: dict[str, bool] = {}
    for signal in signals:
        by_name[signal.parameter] = signal.stats.is_zero and by_name.get(signal.parameter, True)
    return [name for name, is_zero in by_name.items() if is_zero] if not all(by_name.values()) else []


def _steps_to_gradient(
    model: nn.Module, problem: Problem, recording: Recording, waiting: list[str], seed: int
) -> dict[str, float]:
    exponent = recording.context.backward_scale_exponent
    parameters = dict(model.named_parameters())
    trained = _trained(problem, parameters)
    found = dict.fromkeys(waiting, math.inf)
    with _values_put_back(parameters):
        gradients = _gradients(model, problem, seed, exponent)
        for step in range(1, _NUM_STEPS + 1):
            for name in trained & gradients.keys():
                parameters[name].data = _stepped(parameters[name].data, gradients[name])
            gradients = _gradients(model, problem, seed, exponent)
            for name in [name for name, steps in found.items() if steps == math.inf and name in gradients]:
                if _has_some(gradients[name]):
                    found[name] = float(step)
            if math.inf not in found.values():
                break
    return found


def _has_some(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient  # of an nn.Embedding(sparse=True)
    return bool((values != 0).any())


def _trained(problem: Problem, parameters: Mapping[str, Tensor]) -> set[str]:
    """Names of the parameters that a step moves."""
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if problem.optimizer is None:
        return trained
    held = {id(parameter) for parameter in parameters_of(problem.optimizer)}
    return {name for name in trained if id(parameters[name]) in held}


def _gradients(model: nn.Module, problem: Problem, seed: int, scale_exponent: int) -> dict[str, Tensor]:
    """The gradients of one more pass like the recorded one, by name; the model is put back but for its parameters' values."""
    args, kwargs = arguments_of(problem.inputs)
    with preserved(*modules_of(model, problem)), torch.inference_mode(False), torch.enable_grad():
        output = called("the forward pass failed", model, *args, **kwargs)
        roots, cotangents, _ = roots_of(output, loss_of(problem, output), seed, scale_exponent)
        with gradients_preserved(other_leaves(roots, model)):
            torch.autograd.backward(roots, cotangents)
        return {name: p.grad.detach() for name, p in model.named_parameters() if p.grad is not None}


@torch.no_grad()
def _stepped(values: Tensor, gradient: Tensor) -> Tensor:
    """A thousandth of the values' RMS (of 1, where they are all zero) along the gradient."""
    if not values.numel():
        return values
    gradient = gradient.to_dense() if gradient.layout is not torch.strided else gradient
    direction = gradient / gradient.abs().max().clamp_min(torch.finfo(gradient.dtype).tiny)
    size = values.abs().square().mean().sqrt()
    return values - _RELATIVE_STEP * torch.where(size > 0, size, torch.ones_like(size)) * direction


@contextmanager
def _values_put_back(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Inside, `.data` may be replaced: the memory of the parameters is not written to, so nothing of it or its version changes."""
    originals = {name: parameter.data for name, parameter in parameters.items()}
    try:
        yield
    finally:
        for name, original in originals.items():
            if parameters[name].data_ptr() != original.data_ptr():
                parameters[name].data = original


def _series(name: str, num_steps: float) -> Series:
    module, _, item = name.rpartition(".")
    return Series(NUM_STEPS_TO_GRADIENT, module, -1, item, Combine.MINIMUM, np.array([num_steps]))
