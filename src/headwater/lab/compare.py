"""`compare`: the same seeds, data and cotangents for several networks, and what the difference is."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from operator import index
from pickle import PickleError
from typing import Any

import torch
from torch.optim import Optimizer

from headwater._version import __version__
from headwater.analysis import ExpectedRate
from headwater.capture import ProblemError
from headwater.lab.compared_variant import ComparedVariant, TrainingBudget
from headwater.lab.comparison import Comparison
from headwater.lab.learning_curve import joined_curves
from headwater.lab.seed_run import FirstLook, SeedResult, SeedTask, first_look, run_seed
from headwater.lab.training import Batch, Training, adam
from headwater.lab.variant_measurements import stacked
from headwater.lab.variant_profile import ExpectedGain
from headwater.lab.variants import NetworkSource, Variant, variants_of
from headwater.networks import NetworkSpec

NUM_SEEDS = 64
_LEAST_SEED, _GREATEST_SEED = -(2**63), 2**64 - 1


def compare(
    variants: Mapping[str, NetworkSource] | Sequence[str | NetworkSpec],
    inputs: Any,
    targets: Any = None,
    *,
    loss: Callable[..., Any] | None = None,
    seeds: int | Iterable[int] = NUM_SEEDS,
    train: int = 0,
    optimizer: Callable[[Any], Optimizer] | None = None,
    batch_size: int | None = None,
    held_out: tuple[Any, Any] | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """What distinguishes networks, over many seeds: every variant gets the same seeds, data and cotangents, and pairs are compared.

    For each seed and variant a new network is built under `torch.manual_seed(seed)`, and one forward and backward pass of it is
    recorded. The caller's random states are afterwards what they were.

    Args:
        variants: for each name a function without arguments that makes a new network, a `NetworkSpec`, or its line ("mlp
            depth=20 shortcut=identity"); or several specifications without names. The first one is the baseline.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        targets: second argument of the loss, if it takes one.
        loss: as `diagnose` takes it. Without one, random N(0, 1) cotangents are sent back: those of a seed are the same for all
            variants.
        seeds: how many, from 0; or which ones. With fewer than six there is no interval.
        train: also train each network for so many steps; needs a loss. A network whose loss is not finite is stopped, and
            counts as the worst.
        optimizer: makes the optimiser of a network's parameters; Adam with a rate of 1e-3 where there is none.
        batch_size: samples of a step, in an order that depends on the seed alone; None for all.
        held_out: inputs and targets to test on while training.
        executor: spreads the seeds, with results that are bit for bit those of one process. Processes need factories and losses
            that can be pickled (loky takes lambdas too); threads take turns.

    Raises:
        ProblemError: a variant cannot be built or run; the message names it, and says in one sentence what was expected.

    >>> from functools import partial
    >>> from torch import nn
    >>> from headwater.networks import DeepNeuralNetwork
    >>> sizes, sample = [3, 3, 3, 3, 3, 1], torch.tensor([[1.0, 0.0, -1.0]])
    >>> networks = {"plain": partial(DeepNeuralNetwork, sizes, False), "shortcut": partial(DeepNeuralNetwork, sizes, True)}
    >>> one_seed = compare(networks, sample, torch.zeros(1, 1), loss=nn.MSELoss(), seeds=[123])
    >>> first = one_seed.ratios["shortcut"].layers[0]
    >>> [round(ratio.value, 3) for ratio in (first.weight_gradient, first.loss_slope, first.backward_gain, first.forward_signal)]
    [1099.766, 12.575, 87.455, 1.0]
    """
    found = variants_of(variants)
    numbers = _seeds(seeds)
    _check_executor(executor)
    training = _training(train, optimizer, batch_size, held_out)
    data = Batch(inputs, targets)
    tasks = [SeedTask(found, data, loss, training, seed, torch.get_default_dtype()) for seed in numbers]
    looks = [first_look(tasks[0], variant) for variant in found]
    results = _run(tasks, executor)
    return Comparison(
        variants=tuple(
            _compared(variant, look, rows) for variant, look, *rows in zip(found, looks, *results, strict=True)
        ),
        seeds=numbers,
        cotangent=looks[0].cotangent,
        training=None if training is None else TrainingBudget(train, batch_size, looks[0].optimizer),
        versions=(("headwater", __version__), ("python", platform.python_version()), ("torch", str(torch.__version__))),
    )


def _seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    try:
        numbers = tuple(map(index, seeds if isinstance(seeds, Iterable) else range(index(seeds))))
    except TypeError:
        raise ProblemError(f"expected seeds to be how many, or a sequence of whole numbers, got {seeds!r}") from None
    if not numbers:
        raise ProblemError(f"expected one seed or more, got {seeds!r}")
    if len(set(numbers)) < len(numbers):
        raise ProblemError("expected each seed once: the same one again is no more evidence")
    far = [number for number in numbers if not _LEAST_SEED <= number <= _GREATEST_SEED]
    if far:
        raise ProblemError(f"expected seeds from -2^63 to 2^64 - 1, as torch's generators take them, got {far[0]}")
    return numbers


def _check_executor(executor: object) -> None:
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ProblemError(f"expected executor to be a concurrent.futures.Executor, got {executor!r}")


def _training(
    train: int, optimizer: Callable[[Any], Optimizer] | None, batch_size: int | None, held_out: tuple[Any, Any] | None
) -> Training | None:
    if train == 0 and train is not False:
        if optimizer is not None or batch_size is not None or held_out is not None:
            raise ProblemError(
                "optimizer, batch_size and held_out are about training: say for how many steps with train="
            )
        return None
    if held_out is not None and not (isinstance(held_out, tuple) and len(held_out) == 2):
        raise ProblemError(f"expected held_out to be a pair (inputs, targets), got {type(held_out).__name__}")
    return Training(train, optimizer or adam, batch_size, None if held_out is None else Batch(*held_out))


def _run(tasks: Sequence[SeedTask], executor: Executor | None) -> list[list[SeedResult]]:
    if executor is None:
        return [run_seed(task) for task in tasks]
    futures = [executor.submit(run_seed, task) for task in tasks]
    try:
        return [future.result() for future in futures]
    except (PickleError, AttributeError, TypeError, RuntimeError) as error:
        if "pickle" not in f"{type(error).__name__} {error}".lower():
            raise
        raise _unpicklable(error) from error
    finally:
        for future in futures:
            future.cancel()  # the others, where one failed


def _unpicklable(error: Exception) -> ProblemError:
    return ProblemError(
        f"the executor's processes cannot be sent the problem ({error}): define factories, loss and optimizer at the top of a "
        "module, or use loky, which takes lambdas"
    )


def _compared(variant: Variant, look: FirstLook, rows: Sequence[SeedResult]) -> ComparedVariant:
    curves = [row.curve for row in rows if row.curve is not None]
    if not any(row.measured.layers for row in rows):
        raise ProblemError(
            f"variant '{variant.name}': its gradient is not finite under any of the {len(rows)} seeds, so there is nothing to "
            "compare; headwater.diagnose of one network says where it becomes so"
        )
    return ComparedVariant(
        name=variant.name,
        description=variant.description,
        num_parameters=look.num_parameters,
        expected=None if look.expected is None else _expected(look.expected),
        measured=stacked([row.measured for row in rows]),
        curve=joined_curves(curves) if curves else None,
    )


def _expected(rate: ExpectedRate) -> ExpectedGain:
    is_block = rate.branch_scale is not None
    return ExpectedGain(str(rate), rate.expected_factor, rate.low, rate.high, rate.num_layers, is_block)
