"""All variants under one seed: built, observed and perhaps trained with the same random numbers. What an executor spreads."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import nn

from headwater.analysis import ExpectedRate, expected_rate
from headwater.capture import Problem, ProblemError, observe
from headwater.capture.cpu_moments import fused_moments_unloaded
from headwater.capture.preservation import preserved
from headwater.capture.random_states import reseeded
from headwater.lab.learning_curve import LearningCurve
from headwater.lab.pass_measurement import PassMeasurement, pass_measurement
from headwater.lab.training import NO_LOSS, Batch, Training, described, made_optimizer, trained
from headwater.lab.variants import Variant
from headwater.recording import Recording, SignalKind

# Random generators belong to the process: threads of an executor take turns.
_ONE_AT_A_TIME = RLock()


@dataclass(frozen=True, slots=True)
class SeedTask:
    """What is done under one seed.

    Args:
        variants: to build.
        data: one batch for all.
        loss: as `diagnose` takes it; None for random cotangents, which are then the same for all variants of the seed.
        training: or None.
        seed: of the networks, of the random cotangents and of whatever a network draws.
        default_dtype: of the process that asks, which a worker does not know.
    """

    variants: tuple[Variant, ...]
    data: Batch
    loss: Callable[..., Any] | None
    training: Training | None
    seed: int
    default_dtype: torch.dtype = torch.float32


class SeedResult(NamedTuple):
    """One variant under one seed."""

    measured: PassMeasurement
    curve: LearningCurve | None


class FirstLook(NamedTuple):
    """What is asked of one network of each variant, before all seeds."""

    num_parameters: int
    expected: ExpectedRate | None
    cotangent: str
    optimizer: str


def run_seed(task: SeedTask) -> list[SeedResult]:
    """The results of every variant under the task's seed, in order. Random states are afterwards what they were.

    One thread computes: results must not depend on how many cores there are, nor on who spreads the seeds.

    Raises:
        ProblemError: a network cannot be built, run or trained; the message names variant and seed.

    >>> variants = (Variant("one", "", lambda: nn.Linear(2, 1)), Variant("two", "", lambda: nn.Linear(2, 1)))
    >>> task = SeedTask(variants, Batch(torch.ones(1, 2), None), None, None, seed=3)
    >>> one, two = run_seed(task)
    >>> one.measured == two.measured
    True
    """
    with _circumstances(task):
        return [_named(variant, task.seed, _run, task, variant) for variant in task.variants]


def first_look(task: SeedTask, variant: Variant) -> FirstLook:
    """What theory expects of a variant, by a pass under the task's seed whose operations are traced.

    Raises:
        ProblemError: the variant cannot be built or run, or its factory makes the same object again and again.
    """
    with _circumstances(task):
        return _named(variant, task.seed, _look, task, variant)


def _named(variant: Variant, seed: int, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except ProblemError as error:
        raise ProblemError(f"variant '{variant.name}', seed {seed}: {error}") from error.__cause__


def _run(task: SeedTask, variant: Variant) -> SeedResult:
    model = variant.network(task.seed)
    problem = _problem(model, task)
    reseeded(task.seed)  # dropout and the like draw the same, however many numbers the networks took to build
    measured = pass_measurement(observe(problem, seed=task.seed, lines=False, samples=0))
    if task.training is None:
        return SeedResult(measured, None)
    loss = copy.deepcopy(task.loss) if isinstance(task.loss, nn.Module) else task.loss  # it may count, or have weights
    return SeedResult(measured, trained(model, task.data, loss, task.training, task.seed))


def _look(task: SeedTask, variant: Variant) -> FirstLook:
    model = variant.network(task.seed)
    if variant.network(task.seed) is model:
        raise ProblemError(
            "expected the factory to make a new network at each call, it returned the same object twice; "
            "build the network inside of the function"
        )
    reseeded(task.seed)
    recording = observe(_problem(model, task), seed=task.seed, samples=0)
    if not pass_measurement(recording).layers and not _is_not_finite(recording):  # under another seed it may be finite
        raise ProblemError("no layer with a weight matrix got a gradient, so there is nothing to compare")
    num_parameters = sum(math.prod(parameter.shape) for parameter in recording.parameters if parameter.requires_grad)
    cotangent = recording.context.cotangent
    if task.training is None:
        return FirstLook(num_parameters, expected_rate(recording), cotangent, "")
    if cotangent != "loss":
        raise ProblemError(NO_LOSS)  # now, and not after minutes
    optimizer = described(made_optimizer(task.training, model))
    return FirstLook(num_parameters, expected_rate(recording), cotangent, optimizer)


def _is_not_finite(recording: Recording) -> bool:
    return any(signal.stats.nonfinite_count for signal in recording.select(SignalKind.WEIGHT_GRADIENT))


def _problem(model: nn.Module, task: SeedTask) -> Problem:
    return Problem(model, task.data.inputs, task.data.targets, task.loss)


@contextmanager
def _circumstances(task: SeedTask) -> Iterator[None]:
    with _ONE_AT_A_TIME:
        num_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        torch.set_num_threads(1)
        torch.set_default_dtype(task.default_dtype)
        try:
            # Networks that are built in inference mode could not be differentiated. And the compiled kernel, which a process
            # loads once it has measured much, adds up in another order: the last bits must not tell the processes apart.
            with preserved(), fused_moments_unloaded(), torch.inference_mode(False), torch.enable_grad():
                yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(num_threads)
