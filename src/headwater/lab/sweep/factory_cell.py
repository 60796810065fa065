"""One cell of a sweep over a factory of one's own: its networks recorded one after the other, and judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from headwater.analysis.gradient_path import trainable_layers
from headwater.capture import Problem, ProblemError, observe
from headwater.capture.preservation import preserved
from headwater.capture.random_states import reseeded
from headwater.capture.structure import named_tensors
from headwater.lab.sweep.cell import codes_of, training_columns
from headwater.lab.sweep.grid import Cell
from headwater.lab.sweep.settings import Settings
from headwater.lab.sweep.statistics import gain_columns
from headwater.recording import Recording, SignalKind


@dataclass(frozen=True, slots=True)
class FactoryMeasure:
    """Measures what a factory makes; called in the workers.

    Args:
        factory: makes a module or a problem from a cell's parameters, with the generators seeded.
        settings: what to measure.
        inputs: of its modules.
    """

    factory: Callable[..., Any]
    settings: Settings
    inputs: Any = None

    def __call__(self, cell: Cell) -> Mapping[str, Any]:
        """The columns of a cell's row beside its parameters."""
        seeds = self.settings.seeds_of(cell)
        with preserved():  # the random generators of the process
            recordings = [observe(self._problem(cell, seed), seed=0, lines=False, samples=0) for seed in seeds]
            row = {"num_seeds": len(seeds), "seeds": seeds, **_gains(recordings)}
            if self.settings.findings:
                row |= codes_of(recordings[0])
            if self.settings.train:
                row |= training_columns(lambda seed: self._problem(cell, seed), seeds, self.settings)
        return row

    def _problem(self, cell: Cell, seed: int) -> Problem:
        reseeded(seed)
        made = self.factory(**cell.parameters)
        if isinstance(made, Problem):
            return made
        if not isinstance(made, nn.Module):
            raise ProblemError(
                f"expected the factory to make a module or a headwater.Problem, got {type(made).__name__}"
            )
        if self.inputs is None:
            raise ProblemError(
                "the factory makes modules: pass inputs= for them, or let it return headwater.Problem(model, inputs)"
            )
        return Problem(made, self.inputs)


def digest_of(inputs: Any) -> str | None:
    """A hash of all tensors in some inputs, by which two sweeps are told apart; None for no inputs.

    >>> digest_of(torch.zeros(2)) == digest_of(torch.zeros(2)) != digest_of(torch.ones(2))
    True
    """
    if inputs is None:
        return None
    found = hashlib.sha256()
    for name, tensor in named_tensors(inputs):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _gains(recordings: list[Recording]) -> dict[str, Any]:
    """The columns of the gain over the layers but the last one, as of built-in networks."""
    gains, forward, outputs = [], [], []
    for recording in recordings:
        layers = trainable_layers(recording)
        found = [recording.signal(SignalKind.ACTIVATION, layer.call.depth) for layer in layers]
        rms = [np.nan if stats is None else stats.rms for stats in found]
        if len(layers) < 2:
            raise ProblemError(f"expected at least two layers that a gradient reaches, got {len(layers)}")
        gains.append([layer.gain_decades for layer in layers[:-1]])
        forward.append(rms[:-1])
        outputs.append(rms[-1])
    if len({len(gain) for gain in gains}) > 1:
        raise ProblemError("expected networks of the same layers from every seed, got different numbers of them")
    return gain_columns(np.array(gains), np.array(forward), np.array(outputs))
