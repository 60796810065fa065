"""Whether what sharp softmaxes choose serves the loss: it is taken again with other choices, as certain as theirs.

A softmax is as sharp where training has taught it to point as where its scores are too large to learn from. What it points at tells
the two apart: the choice of one that has learned is better for the loss than a choice by lot, and than none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwater.capture import torch_internals
from headwater.capture.functional_activations import SOFTMAX_NUMBER, SQUASHED
from headwater.capture.passes import arguments_of, called, loss_of, modules_of
from headwater.capture.preservation import preserved
from headwater.capture.problem import Problem
from headwater.capture.random_states import reseeded
from headwater.capture.softmax_calls import softmax_call
from headwater.recording import Combine, Recording, Series

# Series of a call, with the item of its operation. The loss: with the softmax's own choice; with none (equal probabilities); the mean
# over choices by lot, and their variance; the lowest where all rows choose others by one rule.
CHOICE_LOSSES = "loss_with_choices"
_SHARP = 0.1  # of the derivative at equal probabilities; the rule's bound is below
_NUM_LOTS = 16
_MOST_GROUPS = 4  # of softmaxes that are looked at together: a pass for each would cost too much in a deep model


def losses_of_choices(model: nn.Module, problem: Problem, recording: Recording, seed: int) -> list[Series]:
    """The loss under other choices of the sharp softmaxes; nothing where there are none, or there is no loss.

    Forward passes only, with the same random numbers; leaves no trace on the model.

    Args:
        model: which ran.
        problem: the whole batch.
        recording: of the whole batch.
        seed: of the lots, and of the model's own random numbers.

    >>> from headwater.capture import observe
    >>> problem = Problem(nn.Linear(2, 1), torch.ones(4, 2), torch.zeros(4, 1), nn.MSELoss())
    >>> losses_of_choices(problem.model, problem, observe(problem), 0)
    []
    """
    sharp = _sharp_softmaxes(recording)
    if not sharp or recording.context.cotangent != "loss" or torch_internals.is_one_of_several_ranks():
        return []
    found: list[Series] = []
    with (
        preserved(*modules_of(model, problem)),
        torch.inference_mode(False),
        torch.enable_grad(),  # so that the same softmaxes count as in the recorded pass
        torch_internals.compiled_code_runs_eagerly(),
    ):
        for group in np.array_split(np.arange(len(sharp)), min(_MOST_GROUPS, len(sharp))):
            members = [sharp[index] for index in group]
            try:
                losses = _losses(model, problem, [number for number, _ in members], seed)
            except Exception:  # noqa: BLE001 - the pass went well once; what a user's code makes of other numbers is its own affair
                return []
            if np.isfinite(losses).all():
                found += [
                    Series(CHOICE_LOSSES, one.module, one.depth, one.item, Combine.SUM, losses) for _, one in members
                ]
    return found


def _sharp_softmaxes(recording: Recording) -> list[tuple[int, Series]]:
    numbers = {(one.depth, one.item): int(one.values[0]) for one in recording.series(SOFTMAX_NUMBER)}
    return [
        (numbers[one.depth, one.item], one)
        for one in recording.series(SQUASHED)
        if (one.depth, one.item) in numbers and one.values[0] < _SHARP * one.values[1]
    ]


def _losses(model: nn.Module, problem: Problem, numbers: Sequence[int], seed: int) -> np.ndarray:
    own = _loss(model, problem, _Chosen((), _spread), seed)
    without = _loss(model, problem, _Chosen(numbers, _spread), seed)
    # A choice that is worse than none, or no better than by lot, needs no more lots to be told from one that has been learned.
    by_lot = _losses_by(_dealt, model, problem, numbers, seed, num_lots=_NUM_LOTS if own < without else 2)
    is_better = own < min(without, *by_lot)
    renamed = _losses_by(_renamed, model, problem, numbers, seed, num_lots=_NUM_LOTS if is_better else 1)
    return np.array([own, without, np.mean(by_lot), np.var(by_lot, ddof=1), min(renamed)])


def _losses_by(
    other: Callable[..., Tensor],
    model: nn.Module,
    problem: Problem,
    numbers: Sequence[int],
    seed: int,
    *,
    num_lots: int,
) -> list[float]:
    chosen = (_Chosen(numbers, partial(other, lots=_lots(seed + 1 + number))) for number in range(num_lots))
    return [_loss(model, problem, one, seed) for one in chosen]


def _lots(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _loss(model: nn.Module, problem: Problem, chosen: _Chosen, seed: int) -> float:
    reseeded(seed)
    args, kwargs = arguments_of(problem.inputs)
    with chosen:
        output = called("the forward pass failed on other choices", model, *args, **kwargs)
    loss = loss_of(problem, output)
    assert loss is not None  # there was one in the recorded pass
    return float(loss.detach())


class _Chosen(TorchFunctionMode):
    """Inside, some softmaxes choose otherwise.

    Args:
        numbers: which, counted as in the recorded pass.
        other: makes other probabilities of their own ones, where they are not masked, and the dimension.
    """

    def __init__(self, numbers: Collection[int], other: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        super().__init__()
        self._numbers = numbers
        self._other = other
        self._count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = softmax_call(func, args, kwargs)
        if found is not None:
            self._count += 1
            if self._count - 1 in self._numbers:
                with torch_internals.without_function_modes():
                    return found.with_other_choice(self._other)
        return func(*args, **kwargs)


def _spread(probabilities: Tensor, is_open: Tensor, dim: int) -> Tensor:
    """The same for all that are not masked."""
    equal = is_open / is_open.sum(dim, keepdim=True).clamp(min=1)
    return equal.to(probabilities.dtype) + 0.0 * probabilities  # and still a part of the graph


def _dealt(probabilities: Tensor, is_open: Tensor, dim: int, lots: torch.Generator) -> Tensor:
    """The probabilities of each row in another order, those of masked entries left where they are."""
    drawn = torch.rand(is_open.shape, generator=lots).to(is_open.device).masked_fill(~is_open, 2.0)
    givers = torch.argsort((~is_open).to(torch.int8), dim=dim, stable=True)
    return torch.zeros_like(probabilities).scatter(dim, drawn.argsort(dim), probabilities.gather(dim, givers))


def _renamed(probabilities: Tensor, is_open: Tensor, dim: int, lots: torch.Generator) -> Tensor:
    """Each entry's probabilities given to another entry, by one rule for all rows; with masked entries, dealt row by row.

    Rows that are alike choose alike, also where they choose by accident: dealt row by row that is lost, and the lots are more alike
    than accidents are.
    """
    if not is_open.all():
        return _dealt(probabilities, is_open, dim, lots)
    order = torch.randperm(probabilities.shape[dim], generator=lots)
    giver = torch.empty_like(order)
    giver[order] = order.roll(1)  # one cycle: none keeps its own
    return probabilities.index_select(dim, giver.to(probabilities.device))
