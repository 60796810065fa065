"""What single samples, or slices of a batch, say: signal and noise of the weight gradients, and how alike gradients are."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from headwater.capture import torch_internals
from headwater.capture.gradient_pairs import gradient_pairs
from headwater.capture.passes import modules_of
from headwater.capture.preservation import preserved
from headwater.capture.problem import Problem
from headwater.capture.slice_gradients import slice_gradients
from headwater.capture.slices import CannotTellApartError
from headwater.recording import Combine, Recording, Series

NO_SLICES, NO_PAIRS = "num_without_slice_gradients", "num_without_gradient_pairs"
DEFAULT_SAMPLES = 16
# A weight gradient of so many entries tells signal from noise with few slices: the error of the noise is 1 / sqrt(entries).
_LARGE, _SLICES_OF_LARGE = 2**20, 4
_LONGEST_REASON = 200


def per_sample(
    model: nn.Module,
    problem: Problem,
    recording: Recording,
    *,
    samples: int | None = None,
    seed: int = 0,
    scale_exponent: int = 0,
) -> list[Series]:
    """The series of `slice_gradients` and of `gradient_pairs`; where one cannot be had, a series whose item says why.

    Leaves no trace on the model, and never fails.

    Args:
        model: which ran.
        problem: the whole batch.
        recording: of the whole batch.
        samples: how many samples, or slices of the batch where it has more samples, are looked at; None for 16, and for 4 slices
            of a model with a million parameters or more.
        seed: of the random generators and of the cotangents.
        scale_exponent: of the loss, as in the recorded pass.

    >>> from headwater.capture import observe
    >>> problem = Problem(nn.Linear(2, 1), torch.ones(4, 2), torch.zeros(4, 1), nn.MSELoss())
    >>> found = per_sample(problem.model, problem, observe(problem))
    >>> [(one.name, one.item) for one in found][:2]
    [('gradient_noise_sums', 'weight'), ('gradient_noise_sums', 'bias')]
    """
    most = DEFAULT_SAMPLES if samples is None else samples
    is_large = sum(parameter.numel() for parameter in model.parameters()) >= _LARGE
    num_slices = _SLICES_OF_LARGE if samples is None and is_large else most
    if (
        torch_internals.is_one_of_several_ranks()
    ):  # one might go on where another gives up, and would wait for it for ever
        return [
            Series(name, "", -1, "several ranks train together", Combine.SUM, np.ones(1))
            for name in (NO_SLICES, NO_PAIRS)
        ]
    found: list[Series] = []
    with (
        preserved(*modules_of(model, problem)),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch_internals.compiled_code_runs_eagerly(),
    ):
        model = torch_internals.uncompiled(model)
        try:
            found += slice_gradients(
                model, problem, recording, most=num_slices, seed=seed, scale_exponent=scale_exponent
            )
        except Exception as error:  # noqa: BLE001 - of the user's model, on a batch it was not made for
            found.append(_refusal(NO_SLICES, error))
        try:
            found += gradient_pairs(model, problem, recording, most=most, seed=seed)
        except Exception as error:  # noqa: BLE001
            found.append(_refusal(NO_PAIRS, error))
    return found


def _refusal(name: str, error: Exception) -> Series:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0] if isinstance(error, CannotTellApartError | ValueError) else f"{type(error).__name__}: {lines[0]}"
    return Series(name, "", -1, reason[:_LONGEST_REASON], Combine.SUM, np.ones(1))
