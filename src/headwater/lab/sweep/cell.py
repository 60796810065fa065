"""One cell of a sweep over specifications: its networks measured, judged, and perhaps trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.capture.preservation import preserved
from headwater.findings import Severity, judge
from headwater.lab.ensembles import measure_ensemble
from headwater.lab.sweep.data import samples_for
from headwater.lab.sweep.grid import Cell
from headwater.lab.sweep.prediction import predict
from headwater.lab.sweep.settings import Settings
from headwater.lab.sweep.statistics import gain_columns, median_columns
from headwater.lab.training import Batch, Training, trained
from headwater.networks import NetworkSpec
from headwater.networks.build import build
from headwater.recording import Recording
from headwater.rules import ALL_RULES

_RECURRENT = ("rnn", "gru", "lstm")


@dataclass(frozen=True, slots=True)
class SpecificationMeasure:
    """Measures the networks of a specification; called in the workers.

    Args:
        settings: what to measure.
    """

    settings: Settings

    def __call__(self, cell: Cell) -> Mapping[str, Any]:
        """The columns of a cell's row beside its parameters."""
        assert cell.spec is not None
        settings, spec, seeds = self.settings, cell.spec, self.settings.seeds_of(cell)
        inputs = samples_for(spec, settings.data).inputs[: settings.batch]
        measured = measure_ensemble(spec, seeds, inputs)
        # Without the head; of a recurrent net, whose weights all return the same steps, the first alone: time is not depth.
        hidden = slice(0, 1 if spec.family in _RECURRENT else -1)
        row = {
            "num_seeds": len(seeds),
            "seeds": seeds,
            **gain_columns(measured.gain_decades[:, hidden], measured.activation_rms[:, hidden], measured.output_rms),
            **{f"theory_{name}": value for name, value in predict(spec, settings.batch)._asdict().items()},
        }
        if settings.findings:
            row |= codes_of(observe(Problem(build(spec, seeds[0]), inputs), lines=False, samples=0))
        if settings.train:
            row |= training_columns(lambda seed: _problem(spec, seed, settings), seeds, settings)
        return row


def codes_of(recording: Recording) -> dict[str, list[str]]:
    """The codes that the rules give a recorded pass: findings are warnings and errors, the rest is information.

    >>> from headwater.recording import RecordingBuilder
    >>> codes_of(RecordingBuilder().build())
    {'findings': [], 'information': []}
    """
    found = [finding for verdict in judge(recording, ALL_RULES) for finding in verdict.findings]
    serious = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    return {"findings": sorted(serious), "information": sorted({finding.code for finding in found} - serious)}


def training_columns(problem_of: Callable[[int], Problem], seeds: Sequence[int], settings: Settings) -> dict[str, Any]:
    """Accuracy and loss on the training data after so many steps of SGD; seeds that are not trained have nan.

    A network that diverges counts as accuracy 0 and loss inf.

    Args:
        problem_of: a fresh network of a seed, with all its training data.
        seeds: of the cell.
        settings: how long, how many of the seeds, how fast.
    """
    accuracy, loss = (np.full(len(seeds), np.nan) for _ in range(2))
    training = Training(settings.train, partial(torch.optim.SGD, lr=settings.learning_rate), settings.batch)
    with preserved():  # the random generators of the process
        for index, seed in enumerate(seeds[: settings.train_seeds]):
            problem = problem_of(seed)
            curve = trained(problem.model, Batch(problem.inputs, problem.targets), problem.loss, training, seed)
            accuracy[index], loss[index] = (curve.medians(name)[-1].value for name in ("accuracy", "loss"))
    return {
        **median_columns("accuracy", accuracy),
        **median_columns("loss", loss),
        "seed_accuracy": accuracy.tolist(),
        "seed_loss": loss.tolist(),
    }


def _problem(spec: NetworkSpec, seed: int, settings: Settings) -> Problem:
    return Problem(build(spec, seed), *samples_for(spec, settings.data), nn.CrossEntropyLoss())
