"""A short training of one network, for its learning curve: the same budget, batches and random numbers for every variant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headwater.capture import Problem, ProblemError
from headwater.capture.passes import arguments_of, called, loss_of
from headwater.capture.random_states import reseeded
from headwater.capture.structure import map_tensors, named_tensors
from headwater.lab.learning_curve import NOT_DIVERGED, LearningCurve

_MOST_CHECKPOINTS = 20
_LEARNING_RATE = 1e-3
NO_LOSS = "expected a loss to train with: pass loss= and targets, for example loss=nn.CrossEntropyLoss()"


class Batch(NamedTuple):
    """Inputs and targets as `compare` takes them."""

    inputs: Any
    targets: Any


@dataclass(frozen=True, slots=True)
class Training:
    """What every variant's training is.

    Args:
        num_steps: of the optimiser.
        optimizer: makes one of a network's parameters.
        batch_size: samples of a step; None for all.
        held_out: data that is not trained on.

    Raises:
        ProblemError: no step, no sample, or an optimiser that is no factory.
    """

    num_steps: int
    optimizer: Callable[[Any], Optimizer]
    batch_size: int | None = None
    held_out: Batch | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, Optimizer) or not callable(self.optimizer):
            raise ProblemError(
                "expected optimizer to be a function that makes one of a network's parameters, as in "
                f"lambda parameters: torch.optim.SGD(parameters, lr=0.1), got {type(self.optimizer).__name__}"
            )
        for name, value in (("train", self.num_steps), ("batch_size", self.batch_size)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ProblemError(f"expected {name} to be a whole number from 1, got {value!r}")

    @property
    def checkpoints(self) -> np.ndarray:
        """Steps after which a network is looked at: before the first, after the last, and at most 19 in between."""
        return np.unique(np.linspace(0, self.num_steps, min(self.num_steps, _MOST_CHECKPOINTS) + 1).round().astype(int))


def adam(parameters: Any) -> Optimizer:
    """The optimiser where none is asked for: Adam with its own learning rate, 1e-3.

    >>> adam(nn.Linear(1, 1).parameters()).defaults["lr"]
    0.001
    """
    return torch.optim.Adam(parameters, lr=_LEARNING_RATE)


def trained(
    model: nn.Module, data: Batch, loss: Callable[..., Any] | None, training: Training, seed: int
) -> LearningCurve:
    """The learning curve of a network that is trained, and changed, here. A loss that is not finite ends it.

    Args:
        model: the network.
        data: to train on.
        loss: as `compare` takes it.
        training: the budget.
        seed: of the batches' order, and of all random numbers that the network draws.

    Raises:
        ProblemError: there is no loss to train with, or a step failed.

    >>> curve = trained(nn.Linear(1, 1), Batch(torch.ones(4, 1), torch.zeros(4, 1)), nn.MSELoss(), Training(3, adam), seed=0)
    >>> curve.steps.tolist(), bool(curve.loss[0, 0] > curve.loss[0, -1])
    ([0, 1, 2, 3], True)
    """
    reseeded(seed)
    batches = _batches(data, training.batch_size, seed)
    with torch.inference_mode(False), torch.enable_grad():
        optimizer = made_optimizer(training, model)
        points, diverged_at, step = [], NOT_DIVERGED, 0
        for checkpoint in training.checkpoints.tolist():
            while step < checkpoint and diverged_at == NOT_DIVERGED:
                is_finite = _step(model, next(batches), loss, optimizer)
                diverged_at = NOT_DIVERGED if is_finite else step
                step += 1
            points.append(_point(model, data, training.held_out, loss) if diverged_at == NOT_DIVERGED else _NOTHING)
            if diverged_at == NOT_DIVERGED and np.isinf(points[-1].loss):
                diverged_at, points[-1] = checkpoint, _NOTHING
    columns = np.array(points, dtype=np.float64).T[:, None, :]
    return LearningCurve(training.checkpoints, *columns, diverged_at=np.array([diverged_at]))


def made_optimizer(training: Training, model: nn.Module) -> Optimizer:
    """The optimiser of a network.

    Raises:
        ProblemError: its factory failed, or made something else.

    >>> described(made_optimizer(Training(1, adam), nn.Linear(1, 1)))
    'Adam, learning rate 0.001'
    """
    optimizer = called("making the optimizer failed", training.optimizer, model.parameters())
    if not isinstance(optimizer, Optimizer):
        raise ProblemError(f"expected optimizer to make a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def described(optimizer: Optimizer) -> str:
    """An optimiser in words: its type and its learning rate.

    >>> described(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1))
    'SGD, learning rate 0.1'
    """
    rates = dict.fromkeys(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)
    name = type(optimizer).__name__
    return f"{name}, learning rate {' and '.join(f'{rate:g}' for rate in rates)}" if rates else name


class _Point(NamedTuple):
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float


_NOTHING = _Point(*[float("nan")] * 4)


def _step(model: nn.Module, batch: Batch, loss: Callable[..., Any] | None, optimizer: Optimizer) -> bool:
    """Takes one step; whether the loss was finite."""
    args, kwargs = arguments_of(batch.inputs)
    optimizer.zero_grad()
    output = called("the forward pass failed on a batch", model, *args, **kwargs)
    if not _is_finite(output):  # many a loss refuses such
        return False
    value = loss_of(Problem(model, batch.inputs, batch.targets, loss), output)
    if value is None:
        raise ProblemError(NO_LOSS)
    if not bool(value.isfinite()):
        return False
    called("the backward pass failed", value.backward)
    called("the optimizer's step failed", optimizer.step)
    return True


def _batches(data: Batch, batch_size: int | None, seed: int) -> Iterator[Batch]:
    """The same batches for every network under one seed: each epoch in another order, the rest of an epoch left out."""
    num_samples = _num_samples(data)
    if batch_size is None or batch_size >= num_samples:
        while True:
            yield data
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_samples, generator=generator)
        for first in range(0, num_samples - batch_size + 1, batch_size):
            yield _chosen(data, order[first : first + batch_size])


def _num_samples(data: Batch) -> int:
    sizes = {len(tensor) for _, tensor in named_tensors(tuple(data)) if tensor.dim()}
    return next(iter(sizes)) if len(sizes) == 1 else 0  # no batch dimension that all share: always all of it


def _chosen(data: Batch, rows: Tensor) -> Batch:
    return Batch(*map_tensors(tuple(data), lambda tensor: tensor[rows.to(tensor.device)] if tensor.dim() else tensor))


def _point(model: nn.Module, data: Batch, held_out: Batch | None, loss: Callable[..., Any] | None) -> _Point:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            own = _loss_and_accuracy(model, data, loss)
            other = _NOTHING[2:] if held_out is None else _loss_and_accuracy(model, held_out, loss)
    finally:
        for module, mode in modes:
            module.training = mode
    return _Point(*own, *other)


def _loss_and_accuracy(model: nn.Module, data: Batch, loss: Callable[..., Any] | None) -> tuple[float, float]:
    args, kwargs = arguments_of(data.inputs)
    output = called("the forward pass failed in evaluation mode", model, *args, **kwargs)
    if not _is_finite(output):
        return float("inf"), float("nan")
    targets = () if data.targets is None else (data.targets,)
    value = output if isinstance(output, Tensor) and not output.dim() else getattr(output, "loss", None)
    if loss is not None:
        value = called("the loss failed on the model's output", loss, output, *targets)
    if value is None:
        raise ProblemError(NO_LOSS)
    number = float(value)
    return (number if np.isfinite(number) else float("inf")), accuracy(output, data.targets)


def accuracy(output: Any, targets: Any) -> float:
    """Share of the samples whose class has the largest output; nan where the targets are no classes.

    Args:
        output: a tensor with a dimension for the classes, the last or the second one; or an object with such `logits`.
        targets: whole numbers, in the shape of the output without the dimension of the classes.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    >>> accuracy(torch.ones(2, 1), torch.ones(2, 1))
    nan
    """
    logits = getattr(output, "logits", output)
    is_classes = isinstance(targets, Tensor) and not (targets.is_floating_point() or targets.is_complex())
    if not is_classes or not isinstance(logits, Tensor) or not targets.numel() or targets.dtype == torch.bool:
        return float("nan")
    for dimension in (-1, 1):
        if logits.dim() == targets.dim() + 1 and logits.argmax(dimension).shape == targets.shape:
            return float((logits.argmax(dimension) == targets.to(logits.device)).double().mean())
    return float("nan")


def _is_finite(output: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for _, tensor in named_tensors(output) if tensor.is_floating_point())
