"""`observe(problem)`: one forward and backward pass of a problem, recorded, that leaves no trace."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from headwater.capture import torch_internals
from headwater.capture.look_ahead import look_ahead
from headwater.capture.loose_tensors import loose_tensors, untrained, untrained_in_loss
from headwater.capture.next_step import NextStep, next_step
from headwater.capture.optimizer_copy import parameters_of
from headwater.capture.passes import arguments_of, called, loss_of, modules_of, other_leaves, roots_of
from headwater.capture.per_sample import per_sample
from headwater.capture.precision import has_few_bits, precision_asked_for
from headwater.capture.preservation import gradients_preserved, preserved
from headwater.capture.problem import Problem, ProblemError
from headwater.capture.recorder import Recorder, record
from headwater.capture.softmax_choices import losses_of_choices
from headwater.capture.source_lines import operation_name, source_line
from headwater.capture.structure import named_tensors
from headwater.capture.symmetry import symmetric_units
from headwater.recording import NonFiniteOperation, Recording, SignalKind, extended
from headwater.recording.recording import KINDS

# A cotangent between 2**-20 and 2**20 leaves float32's exponents (-126 to 127) room for 30 decades of gain.
_WELL_SCALED_EXPONENT = 20
_MAX_SCALE_EXPONENT = 120


def observe(
    problem: Problem,
    *,
    seed: int = 0,
    lines: bool = True,
    exponents: bool = False,
    precision: str | None = None,
    samples: int | None = 0,
) -> Recording:
    """The recording of one forward and backward pass.

    Parameters, buffers, gradients, random states, flags and attributes are afterwards what they were. The inputs
    are copied, so that a backward pass ends there. A lazy model runs as a copy.

    A loss whose slope is far from one is scaled by a power of two and run again, so that a long decay does not end at
    float32's smallest value; the recorded gradients are those of the loss as it is.

    Args:
        problem: what to run.
        seed: of the random cotangents, where there is no loss.
        lines: also trace which line of code each operation was called from.
        exponents: also count the gradients' elements per binary exponent; done anyway where weights have 16 bits or fewer.
        precision: the format that shall be asked about, as "float16"; counts exponents too.
        samples: how many samples' own gradients are looked at, in passes of their own; None for as many as `per_sample` thinks
            fit.

    Raises:
        ProblemError: the forward pass, the loss or the backward pass failed, the loss is no scalar with a gradient, or there
            is no such precision.

    >>> problem = Problem(nn.Linear(2, 1), torch.ones(1, 2), torch.zeros(1, 1), nn.MSELoss())
    >>> observe(problem).context.cotangent
    'loss'
    """
    model = problem.model
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model, _copies_of_lazy_buffers(model))
    asked = precision_asked_for(precision)
    look = _Look(seed, lines, exponents or bool(asked) or has_few_bits(model))
    recording, step = _run(model, problem, look, 0)
    exponent = _scale_exponent(recording)
    if exponent:  # but the optimiser steps with the loss as it is
        recording, _ = _run(model, problem, look, exponent)
    recording = step.added_to(extended(recording, series=asked))
    if _is_broken(recording):
        return extended(recording, culprits=_culprits(model, problem)) if lines else recording
    if lines:
        recording = extended(recording, series=losses_of_choices(model, problem, recording, seed))
    if samples != 0:
        scale = recording.context.backward_scale_exponent
        own = per_sample(model, problem, recording, samples=samples, seed=seed, scale_exponent=scale)
        recording = extended(recording, series=own)
    return look_ahead(model, problem, recording, seed)


@dataclass(frozen=True, slots=True)
class _Look:
    """What shall be looked at beside the moments, and the seed of the random cotangents."""

    seed: int
    lines: bool
    exponents: bool


def _is_broken(recording: Recording) -> bool:
    """Whether the forward pass or the loss made values that are not finite."""
    loss = recording.context.loss
    made = recording.signal_table[recording.signal_table["kind"] == KINDS.index(SignalKind.ACTIVATION)]
    return (loss is not None and not math.isfinite(loss)) or bool((made["nan_count"] + made["inf_count"]).any())


def _culprits(model: nn.Module, problem: Problem) -> list[NonFiniteOperation]:
    """The operations that made the first NaN and the first infinity: by a second forward pass, with the same bits."""
    args, kwargs = arguments_of(problem.inputs)
    with (
        preserved(*modules_of(model, problem)),
        torch.inference_mode(False),
        torch.enable_grad(),
        record(model) as recorder,
        recorder.search_non_finite() as search,
    ):
        output = called("the forward pass failed on the inputs", model, *args, **kwargs)
        with suppress(ProblemError):  # which the first pass has told already
            loss_of(problem, output)
        in_order = (search.first_infinity, search.first_made_in_loss, search.first_nan)
        found = list(dict.fromkeys(culprit for culprit in in_order if culprit is not None))
        return [
            NonFiniteOperation(
                operation_name(culprit.function),
                source_line(culprit.file, culprit.line) if culprit.file else None,
                recorder.depth_of(culprit.call),
            )
            for culprit in found
        ]


def _copies_of_lazy_buffers(model: nn.Module) -> dict[int, Any]:
    """A memo for `deepcopy`, which cannot copy a buffer without a shape."""
    lazy = [buffer for buffer in model.buffers() if isinstance(buffer, UninitializedBuffer)]
    return {
        id(buffer): UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # pyright: ignore[reportCallIssue]
        for buffer in lazy
    }


def _run(model: nn.Module, problem: Problem, look: _Look, scale_exponent: int) -> tuple[Recording, NextStep]:
    args, kwargs = arguments_of(problem.inputs)
    failure, loss, found, step = "", None, [], NextStep()
    loose = loose_tensors(model)  # now: what the forward pass stores on itself is its own affair
    with (
        preserved(*modules_of(model, problem)),
        torch.inference_mode(False),
        torch.enable_grad(),
        record(model, exponents=look.exponents) as recorder,
    ):
        recorder.keep_time_steps()
        with recorder.trace_lines() if look.lines else nullcontext():
            output = called("the forward pass failed on the inputs", model, *args, **kwargs)
            try:
                loss = loss_of(problem, output)
            except ProblemError as error:
                if not _is_non_finite(output):
                    raise
                failure = f"No backward pass was run: the model's output is not finite, and {error}."
        if failure:
            recorder.note_circumstances(notes=(failure,))
        else:
            scale_exponent, leaves = _differentiate(recorder, model, problem, output, loss, look.seed, scale_exponent)
            trained = () if problem.optimizer is None else parameters_of(problem.optimizer)
            found = [
                *torch_internals.unseen(symmetric_units)(model),
                *untrained(loose, leaves, trained),
                *(() if problem.optimizer is None else untrained_in_loss(problem.loss, leaves, trained)),
                *recorder.time_steps(scale_exponent),
            ]
            step = next_step(problem.optimizer, problem.model, model, step=loss is not None and not scale_exponent)
    return extended(recorder.recording, series=found), step


def _differentiate(
    recorder: Recorder,
    model: nn.Module,
    problem: Problem,
    output: Any,
    loss: Tensor | None,
    seed: int,
    scale_exponent: int,
) -> tuple[int, list[Tensor]]:
    """The backward pass: the binary exponent that its loss was really scaled by, and the leaves that are not the model's."""
    roots, cotangents, scale_exponent = roots_of(output, loss, seed, scale_exponent)
    recorder.follow_operations(roots)
    leaves = other_leaves(roots, model)
    with gradients_preserved(leaves):
        called("the backward pass failed", torch.autograd.backward, roots, cotangents)
    if problem.optimizer is not None:
        recorder.note_trained(parameters_of(problem.optimizer))
    _note(recorder, problem, loss, seed, scale_exponent)
    return scale_exponent, leaves


def _is_non_finite(output: Any) -> bool:
    """Whether the output holds NaN or Inf: many a loss refuses such, and the way they came is what is asked for."""
    floats = [tensor for _, tensor in named_tensors(output) if tensor.is_floating_point() or tensor.is_complex()]
    return not all(tensor.isfinite().all() for tensor in floats)


def _note(recorder: Recorder, problem: Problem, loss: Tensor | None, seed: int, scale_exponent: int) -> None:
    recorder.note_circumstances(
        cotangent="random" if loss is None else "loss",
        loss=None if loss is None or loss.is_meta else float(loss.detach()),
        seed=seed if loss is None else None,
        optimizer="" if problem.optimizer is None else type(problem.optimizer).__name__,
        backward_scale_exponent=scale_exponent,
    )


def _scale_exponent(recording: Recording) -> int:
    """The exponent k for which the loss times 2**k has a cotangent near one; 0 where it is near enough, or random."""
    if recording.context.cotangent != "loss":
        return 0
    gradients = [s.stats for s in recording.select(SignalKind.ACTIVATION_GRADIENT, depth=0)]
    # A model that returns its loss beside its output: the loss' own gradient is one and says nothing.
    gradients = [stats for stats in gradients if stats.numel > 1] or gradients
    norm = max((stats.norm for stats in gradients if not stats.nonfinite_count), default=0.0)
    if norm == 0.0:
        return 0
    exponent = -math.frexp(norm)[1]
    if abs(exponent) <= _WELL_SCALED_EXPONENT:
        return 0
    return max(-_MAX_SCALE_EXPONENT, min(exponent, _MAX_SCALE_EXPONENT))
