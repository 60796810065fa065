"""How alike the gradients of like inputs are: pairs of samples a little apart, and one sample under two draws of noise.

Balduzzi et al. 2017 (arXiv 1702.08591) compare gradients of different inputs under equal cotangents. The model runs once on some
samples and once more with each moved a little toward another one, at the output of its first layer, so that token ids can be
moved too. Both runs draw the same random numbers and send the same cotangent back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from headwater.capture.passes import arguments_of, called
from headwater.capture.problem import Problem
from headwater.capture.random_states import random_states, reseeded
from headwater.capture.seam import Seam
from headwater.capture.slices import CannotTellApartError, Cutting
from headwater.capture.structure import named_tensors
from headwater.recording import Combine, Recording, Series, SignalKind

AT_1024TH, AT_8TH = "gradient_correlation_at_1024th", "gradient_correlation_at_8th"
OF_SAMPLES, REPEATED = "gradient_correlation_of_samples", "gradient_correlation_repeated"
_1024TH, _EIGHTH = 2.0**-10, 2.0**-3  # of the way from one sample to another
# Above these, two standard errors from the mean, no more runs are needed: the rules' bounds are below.
_SURELY_ALIKE, _SURELY_SAME = 0.5, 0.15
_MOST_ROUNDS = 8
# Of draws: after 32 it ends where the bound of HW106 lies outside of two standard errors; the error falls as one over their number.
_LOOKS_AT_DRAWS, _NOISE_BOUND = (32, 64, 128), 0.01
_DEEP = 64  # layers; by the theory that HW105 goes by, 76 are
# So many entries in all make the correlation of unrelated gradients 1 / sqrt(2**15) = 0.006.
_ENOUGH_ENTRIES = 2**15


def gradient_pairs(model: nn.Module, problem: Problem, recording: Recording, *, most: int, seed: int) -> list[Series]:
    """Correlations of gradients with respect to the first layer's output, each as count, sum and sum of squares over the pairs.

    `gradient_correlation_at_1024th`, and but for large models `gradient_correlation_at_8th`: of a sample and the point so far on
    the way to another one; the
    fourth entry is the sum of the correlations of the two points themselves. `gradient_correlation_of_samples`: the same of
    different samples. `gradient_correlation_repeated`, only where the model draws random numbers: of the same point under two
    draws. Correlation means cosine, under equal cotangents; the series are about the first layer's call.

    Args:
        model: which ran, inside of `preserved`.
        problem: the whole batch; its loss is not used.
        recording: of the whole batch.
        most: samples; at least two are looked at, and fewer than `most` where each has many entries.
        seed: of the cotangent and of the random generators.

    Raises:
        CannotTellApartError: there are fewer than two samples, no layer whose output has a row for each, or no gradient there.
        ProblemError: the model does not run on a part of its batch.
    """
    size = Cutting.of(problem, 2).size
    num_samples = size if _has_batch_statistics(model) else _num_samples(recording, size, most)
    part = Cutting(size, 1, size).part(problem, 0, num_samples)
    seam = Seam(model, num_samples)
    rounds = _Rounds(model, part, seam, seed)
    here = rounds.run()
    series = [*rounds.of_near_points(here), *rounds.of_repetitions(here)]
    # Of a large model this would cost more than it tells: it is judged in deep ones only.
    if num_samples >= min(size, most) or _num_layers(recording) >= _DEEP:
        series.append(rounds.of_far_points(here))
    name = seam.name
    depth = next((call.depth for call in recording.calls if call.module == name), -1)
    return [Series(what, name, depth, "", Combine.SUM, np.array(values)) for what, values in series]


@dataclass(frozen=True, slots=True)
class _Run:
    """Points at the output of the first layer and the gradients there: float64, shape (samples, entries)."""

    points: Tensor
    gradients: Tensor
    is_random: bool


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Runs of a model on a few samples, as many as it takes to be sure."""

    model: nn.Module
    part: Problem
    seam: Seam
    seed: int

    def run(self, step: float = 0.0, *, shift: int = 1, draw: int = 0, cotangent: int = 0) -> _Run:
        before = reseeded(self.seed + draw)
        with self.seam.opened(step, shift):
            args, kwargs = arguments_of(self.part.inputs)
            output = called("the forward pass failed on a part of the batch", self.model, *args, **kwargs)
            is_random = random_states() != before
            sent = _cotangent(output, self.seam.num_samples, self.seed + cotangent)
            return _Run(*self.seam.rows(sent), is_random)

    def of_near_points(self, here: _Run) -> Iterator[tuple[str, list[float]]]:
        """Different samples, and points a thousandth of the way from one to another."""
        yield OF_SAMPLES, _moments(*_correlations_of_different(here))
        values, own = Tensor(), Tensor()
        for number in range(_MOST_ROUNDS):
            if number:
                here = self.run(cotangent=number)
            near = self.run(_1024TH, shift=1 + number, cotangent=number)
            of_gradients, of_points = _correlations(here, near)
            values, own = torch.cat([values, of_gradients.cpu()]), torch.cat([own, of_points.cpu()])
            if _low(values) > _SURELY_ALIKE:
                break
        yield AT_1024TH, _moments(values, own)

    def of_far_points(self, here: _Run) -> tuple[str, list[float]]:
        """Points an eighth of the way from one sample to another."""
        far = self.run(_EIGHTH)
        return AT_8TH, _moments(*_correlations(here, far))

    def of_repetitions(self, first: _Run) -> Iterator[tuple[str, list[float]]]:
        """The same points under several draws of the model's own random numbers; nothing of a model that draws none."""
        if not first.is_random:
            return
        total = _normalised(first.gradients)
        values = Tensor()
        num_arrived = (total != 0).any(1).double()  # of draws, for each sample
        for number in range(2, _LOOKS_AT_DRAWS[-1] + 1):
            drawn = _normalised(self.run(draw=number - 1).gradients)
            total = total + drawn
            num_arrived += (drawn != 0).any(1)
            # Of all pairs of draws: |sum u|² = sum |u_r|² + sum of u_r . u_s over r != s. A gradient of zero is like none.
            values = ((total.square().sum(1) - num_arrived) / (number * (number - 1)))[num_arrived > 0]
            if _low(values) > _SURELY_SAME or (number in _LOOKS_AT_DRAWS and _decided(values)):
                break
        yield REPEATED, _moments(values)


def _low(values: Tensor, errors: float = 2.0) -> float:
    """Two standard errors below the mean; nan where there is no error."""
    return float(values.mean() - errors * values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan


def _decided(values: Tensor) -> bool:
    """Whether more draws can hardly change on which side of the bound the correlation lies."""
    return not _low(values) <= _NOISE_BOUND < _low(values, -2.0)


def _has_batch_statistics(model: nn.Module) -> bool:
    """Whether a sample's gradient depends on how many others there are."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def _num_layers(recording: Recording) -> int:
    owners = {parameter.module for parameter in recording.parameters if len(parameter.shape) > 1}
    return sum(call.module in owners for call in recording.calls)


def _num_samples(recording: Recording, size: int, most: int) -> int:
    owners = {parameter.module for parameter in recording.parameters}
    first = next(
        (call for call in recording.calls if call.module in owners and not recording.children(call.depth)), None
    )
    outputs = [] if first is None else recording.select(SignalKind.ACTIVATION, depth=first.depth)
    entries = max((math.prod(signal.shape[1:]) for signal in outputs), default=1)
    return min(size, max(2, min(most, -(-_ENOUGH_ENTRIES // max(entries, 1)))))


def _cotangent(output: Any, num_samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first output with a row for each sample; N(0, 1), the same for every sample but for a sign; and the signs.

    Under batch normalisation gradients sum to zero over the batch, which would leave nothing of equal ones. With signs that
    cancel, which are taken out again, nothing is lost, and without batch statistics nothing changes.
    """
    for _, tensor in named_tensors(output):
        if tensor.requires_grad and tensor.is_floating_point() and tensor.dim() and len(tensor) == num_samples:
            generator = torch.Generator(device="cpu").manual_seed(seed)
            row = torch.randn(tensor.shape[1:], generator=generator).to(tensor.device, tensor.dtype)
            signs = 1.0 - 2.0 * (torch.arange(num_samples, device=tensor.device) % 2)
            sent = row * signs.to(tensor.dtype).reshape(-1, *[1] * row.dim())
            return tensor, sent, signs.double()
    raise CannotTellApartError("the model returns no tensor of real numbers with a row for each sample")


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of each row with its partner: 0 where one of the two is zero."""
    return (_normalised(a) * _normalised(b)).sum(1).clamp(-1.0, 1.0)


def _correlations(here: _Run, there: _Run) -> tuple[Tensor, Tensor]:
    """Of the gradients of each pair of points, and of the points themselves; without pairs in which both gradients are zero."""
    has_some = (here.gradients != 0).any(1) | (there.gradients != 0).any(1)
    of_gradients, of_points = (
        _cosines(a, b) for a, b in ((here.gradients, there.gradients), (here.points, there.points))
    )
    return of_gradients[has_some], of_points[has_some]


def _correlations_of_different(run: _Run) -> tuple[Tensor, Tensor]:
    """The same of all pairs of samples that have a gradient."""
    has_some = (run.gradients != 0).any(1)
    num_rows = int(has_some.sum())
    first, second = torch.triu_indices(num_rows, num_rows, 1, device=run.gradients.device)
    of_gradients, of_points = (
        (rows @ rows.mT)[first, second].clamp(-1.0, 1.0)
        for rows in map(_normalised, (run.gradients[has_some], run.points[has_some]))
    )
    return of_gradients, of_points


def _normalised(rows: Tensor) -> Tensor:
    largest = rows.abs().amax(1, keepdim=True)
    return functional.normalize(torch.where(largest > 0.0, rows / largest, 0.0), dim=1)


def _moments(values: Tensor, of_points: Tensor | None = None) -> list[float]:
    moments = [float(len(values)), float(values.sum()), float(values.square().sum())]
    return moments if of_points is None else [*moments, float(of_points.sum())]
