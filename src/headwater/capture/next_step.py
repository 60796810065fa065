"""What the optimiser's next step does to each parameter: the update, and the weights that a gradient does not move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from headwater.capture import torch_internals
from headwater.capture.exact_steps import ExactStep, exact_step
from headwater.capture.moments import measure
from headwater.capture.optimizer_copy import StepError, parameters_of, stepped_copies
from headwater.recording import Combine, Recording, Series, TensorStats, Update, extended

# Decades that epsilon shrinks a step by are counted up to here; what is beyond is counted here.
_MOST_DECADES = 10
# Where schedulers keep the rate that they start from, and that they rise to.
_SCHEDULED_RATES = ("lr", "initial_lr", "max_lr")


@dataclass(frozen=True, slots=True)
class NextStep:
    """What was seen of the step.

    Of each parameter that takes part there are these series, entry d for the weights whose step epsilon shrinks by d
    whole decades (one entry for optimisers whose formula is not known): `num_with_gradient`, `num_unchanged` (of those,
    the same after the step, bit for bit), and for SGD, Adam and AdamW `num_lost_to_rounding` (of those, the weights whose
    gradient makes no difference although the exact step is not zero) and `num_lost_at_full_rate` (the same at the highest
    rate of the schedule and with momentum built up); further `learning_rate`, `full_learning_rate` and `epsilon`.
    `in_optimizer` is 1 or 0 for every parameter of the model, and `num_foreign_parameters` of the model counts the
    optimiser's parameters that are not the model's.

    Args:
        updates: new minus old values of the parameters that have a gradient.
        series: the numbers above.
        notes: what could not be seen, one sentence each.
    """

    updates: tuple[Update, ...] = ()
    series: tuple[Series, ...] = ()
    notes: tuple[str, ...] = ()

    def added_to(self, recording: Recording) -> Recording:
        """The recording with what was seen; parameters that it does not have are left out."""
        if not (self.updates or self.series or self.notes):
            return recording
        known = {parameter.name for parameter in recording.parameters}
        series = [one for one in self.series if not one.item or _full_name(one.module, one.item) in known]
        updates = [update for update in self.updates if update.parameter in known]
        context = replace(recording.context, notes=(*recording.context.notes, *self.notes))
        return extended(replace(recording, context=context), series=series, updates=updates)


@torch_internals.unseen
def next_step(optimizer: Optimizer | None, original: nn.Module, model: nn.Module, *, step: bool) -> NextStep:
    """What the optimiser's next step would do with the gradients that are in `.grad` now; taken on copies.

    Args:
        optimizer: nothing is seen without one.
        original: the model whose parameters the optimiser was given.
        model: the same model, or the copy of it that ran and has the gradients.
        step: whether the gradients are those of a loss; otherwise only who is in the optimiser is noted.

    >>> layer = nn.Linear(2, 1)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> found = next_step(torch.optim.SGD([layer.weight], 0.1), layer, layer, step=True)
    >>> [(one.item, one.values.tolist()) for one in found.series if one.name == "in_optimizer"]
    [('weight', [1.0]), ('bias', [0.0])]
    >>> [(update.parameter, round(update.stats.rms, 6)) for update in found.updates]
    [('weight', 0.1)]
    """
    if optimizer is None:
        return NextStep()
    names = {id(parameter): name for name, parameter in torch_internals.uncompiled(original).named_parameters()}
    membership = NextStep(series=tuple(_membership(optimizer, names)))
    if not step:
        return membership
    ran = dict(torch_internals.uncompiled(model).named_parameters())
    live = {key: ran[name] for key, name in names.items() if name in ran}
    try:
        stepped = stepped_copies(optimizer, live)
    except StepError as error:
        return replace(membership, notes=(f"The next step of {type(optimizer).__name__} was not observed: {error}.",))
    return _measured(optimizer, live, stepped, names, membership)


def _measured(
    optimizer: Optimizer,
    live: Mapping[int, Tensor],
    stepped: Mapping[int, Tensor],
    names: Mapping[int, str],
    membership: NextStep,
) -> NextStep:
    updates: list[Update] = []
    series: list[Series] = []
    notes: list[str] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            old, new = live.get(id(parameter)), stepped.get(id(parameter))
            if old is None or old.grad is None or new is None:
                continue
            name = names[id(parameter)]
            try:
                stats, numbers = _seen(optimizer, group, parameter, old, new, old.grad)
            except Exception as error:  # noqa: BLE001 - of a tensor subclass, and nothing else depends on it
                notes.append(f"The next update of '{name}' could not be measured: {error!r:.200}.")
                continue
            updates.append(Update(name, stats))
            series += [_series(name, what, values, combine) for what, values, combine in numbers]
    return NextStep(tuple(updates), (*membership.series, *series), tuple(notes))


def _membership(optimizer: Optimizer, names: Mapping[int, str]) -> list[Series]:
    held = {id(parameter) for parameter in parameters_of(optimizer)}
    series = [_series(name, "in_optimizer", [key in held], Combine.MAXIMUM) for key, name in names.items()]
    num_foreign = len(held - names.keys())
    return [
        *series,
        Series("num_foreign_parameters", "", -1, "", Combine.MAXIMUM, np.array([num_foreign], dtype=float)),
    ]


def _series(name: str, what: str, values: Sequence[float], combine: Combine) -> Series:
    module, _, item = name.rpartition(".")
    return Series(what, module, -1, item, combine, np.asarray(values, dtype=np.float64))


def _full_name(module: str, item: str) -> str:
    return f"{module}.{item}" if module else item


def _seen(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor, old: Tensor, new: Tensor, gradient: Tensor
) -> tuple[TensorStats, list[tuple[str, Sequence[float], Combine]]]:
    """The statistics of one parameter's update, and its numbers."""
    old, new, gradient = (_local(tensor.detach()) for tensor in (old, new, gradient))
    if gradient.layout is not torch.strided:
        gradient = gradient.to_dense()
    exact = exact_step(optimizer, group, _local_state(optimizer.state.get(parameter, {})), old, gradient)
    rate = float(group.get("lr", 0.0))
    full_rate = max(float(group[key]) for key in _SCHEDULED_RATES if key in group) if "lr" in group else 0.0
    numbers: list[tuple[str, Sequence[float], Combine]] = [
        (name, counts, Combine.SUM) for name, counts in _counts(old, new, gradient, exact, rate, full_rate).items()
    ]
    numbers += [("learning_rate", [rate], Combine.MAXIMUM), ("full_learning_rate", [full_rate], Combine.MAXIMUM)]
    if exact is not None and exact.kept is not None:
        numbers.append(("epsilon", [float(group["eps"])], Combine.MAXIMUM))
    return measure(new - old), numbers


def _counts(
    old: Tensor, new: Tensor, gradient: Tensor, exact: ExactStep | None, rate: float, full_rate: float
) -> dict[str, list[float]]:
    has_gradient = (gradient != 0) & torch.isfinite(gradient)
    masks = {"num_with_gradient": has_gradient, "num_unchanged": has_gradient & (new == old)}
    bins, num_bins = None, 1
    if exact is not None:
        is_lost = has_gradient & (exact.direction != exact.decay)
        # A rate of zero loses nothing: it was set to zero.
        masks["num_lost_to_rounding"] = is_lost & ~exact.changes(old, rate) if rate else torch.zeros_like(is_lost)
        longest = full_rate * exact.growth
        masks["num_lost_at_full_rate"] = (
            is_lost & ~exact.changes(old, longest) if longest else torch.zeros_like(is_lost)
        )
        if exact.kept is not None:
            num_bins = _MOST_DECADES + 1
            decades = torch.nan_to_num(-torch.log10(exact.kept), nan=0.0, posinf=_MOST_DECADES)
            bins = decades.clamp(0, _MOST_DECADES).long()
    if bins is None:
        return {name: [float(mask.sum())] for name, mask in masks.items()}
    counted = [torch.bincount(bins[mask], minlength=num_bins) for mask in masks.values()]
    rows = torch.stack(counted).double().tolist()
    return dict(zip(masks, rows, strict=True))


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a distributed tensor."""
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def _local_state(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _local(value) if isinstance(value, Tensor) else value for key, value in state.items()}
