"""Diagnoses: a recording, what the rules say about it, and ways to read both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater import recording as recordings
from headwater.analysis import (
    DepthProfile,
    ExpectedRate,
    GradientNoise,
    LineCost,
    LossScale,
    TimeSteps,
    Waterfall,
    depth_profile,
    expected_rate,
    gradient_noise,
    line_costs,
    loss_scale,
    time_steps,
    waterfall,
)
from headwater.findings import Finding, Rule, RuleVerdict
from headwater.findings import judge as judge_recording
from headwater.recording import Recording
from headwater.report import (
    Document,
    TextReport,
    annotated_file,
    as_data,
    as_sarif,
    can_show,
    document,
    render_html,
    render_text,
    sorted_findings,
)
from headwater.rules import ALL_RULES

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Diagnosis:
    """What one recording says. `print` it, show it in a notebook, or read its parts.

    Args:
        recording: the data.
        verdicts: what each rule said, in the order of the rules.
    """

    recording: Recording
    verdicts: tuple[RuleVerdict, ...]

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the most severe first."""
        return sorted_findings(self.verdicts)

    @cached_property
    def profile(self) -> DepthProfile:
        """One row per call in execution order."""
        return depth_profile(self.recording)

    @cached_property
    def waterfall(self) -> Waterfall:
        """The decades between the loss and the first layer, split by cause: the parts add up to the whole."""
        return waterfall(self.recording)

    @cached_property
    def loss_scale(self) -> LossScale | None:
        """That the loss itself is far too steep or too flat, which no verdict depends on; None where it is neither."""
        return loss_scale(self.recording)

    @cached_property
    def expected(self) -> ExpectedRate | None:
        """What mean-field theory expects of a stack of like layers, beside what was measured; None where there is none."""
        return expected_rate(self.recording, self.waterfall)

    @cached_property
    def lines(self) -> tuple[LineCost, ...]:
        """What each line of the code does to the gradient, the largest loss first; empty where lines were not traced."""
        return line_costs(self.recording)

    @cached_property
    def time_steps(self) -> tuple[TimeSteps, ...]:
        """The gradient over the time steps of each recurrent module, in execution order; empty where there is none."""
        return time_steps(self.recording)

    @cached_property
    def noise(self) -> tuple[GradientNoise, ...]:
        """Signal and noise of each parameter's gradient; empty where samples were not looked at one by one."""
        return gradient_noise(self.recording)

    def annotate(
        self,
        path: str | Path | None = None,
        *,
        around: int | None = None,
        color: bool = False,
        ascii_only: bool = False,
    ) -> str:
        """The source code of a file with the decades of each line in the margin, the hottest lines marked.

        Args:
            path: of the file, or of a notebook's cell as `lines` name it; without one, the file whose lines change the
                gradient most.
            around: only from so many lines before the first line that counts to so many after the last; None for all.
            color: marked lines in red.
            ascii_only: for terminals and files that cannot show Unicode.

        Raises:
            ValueError: no operation was called from this file, or its code cannot be read any more.
        """
        return annotated_file(path, self.lines, around=around, color=color, ascii_only=ascii_only)

    @cached_property
    def document(self) -> Document:
        """What the renderers show."""
        return document(self.recording, self.verdicts, self.profile)

    def save(self, path: str | Path) -> None:
        """Saves the recording as plain data; `load` makes the same diagnosis of it without the model.

        Raises:
            RecordingFileError: the file cannot be written.
        """
        recordings.save(self.recording, path)

    def to_text(self, *, width: int = 80, color: bool = False, show_all: bool = False, ascii_only: bool = False) -> str:
        """The report as text of at most `width` columns.

        Args:
            width: columns, at least 40.
            color: with ANSI colours; nothing is said by colour alone.
            show_all: every call instead of folded blocks, every finding in full.
            ascii_only: for terminals and files that cannot show Unicode.
        """
        return render_text(self.document, width=width, color=color, show_all=show_all, ascii_only=ascii_only)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data that JSON can hold: what is not finite becomes None."""
        return as_data(self.recording, self.verdicts, self.profile)

    def to_sarif(self) -> dict[str, Any]:
        """The findings in SARIF 2.1.0, as plain data, for code hosts that show them at the lines of the source."""
        return as_sarif(self.findings, self.verdicts)

    def __str__(self) -> str:
        # A print() must not fail where standard output knows no blocks and lines.
        return self.to_text(ascii_only=not can_show(getattr(sys.stdout, "encoding", None))).rstrip("\n")

    def __repr__(self) -> str:
        codes = ", ".join(finding.code for finding in self.findings) or "healthy"
        return f"<Diagnosis of {self.recording.context.model_type or 'a model'}: {codes}>"

    def __rich__(self) -> RenderableType:
        return TextReport(self.document)

    def _repr_html_(self) -> str:
        return render_html(self.document)


def diagnose(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Optimizer | None = None,
    lines: bool = True,
    seed: int = 0,
    precision: str | None = None,
    samples: int | None = None,
    rules: Sequence[Rule] = ALL_RULES,
) -> Diagnosis:
    """What one forward and backward pass of a model says about its gradient. Leaves no trace on the model.

    Args:
        model: the network, in the mode (train or eval) that shall be judged.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        targets: second argument of the loss, if it takes one.
        loss: `loss(output, targets)` or `loss(output)`. Without one, the output is the loss if it is a scalar,
            `output.loss` is if there is one, and random N(0, 1) cotangents are sent back otherwise.
        optimizer: the optimiser that will train the model.
        lines: also trace which line of the code each operation was called from; it takes some more time.
        seed: of the random cotangents.
        precision: a format to ask about what it would lose of the gradients: "float16", "bfloat16", "float8_e4m3fn" or
            "float8_e5m2".
        samples: how many samples' own gradients are looked at, for HW105 and HW106, in passes of their own (of a larger batch,
            into how many slices it is cut). None: 16, or 4 slices of a model with a million parameters or more, and none without
            `lines`; 0: none.
        rules: what to look for.

    Raises:
        ProblemError: the pass cannot be run; the message says what was expected, what arrived and what to do.
        ValueError: samples is no whole number, or a negative one.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> diagnose(model, torch.randn(8, 4)).findings
    ()
    """
    from headwater.capture import Problem, observe  # here, so that loading a saved recording needs no torch

    if samples is not None and not (isinstance(samples, Integral) and samples >= 0):
        raise ValueError(f"expected samples to be a whole number of at least 0 (0 for none) or None, got {samples!r}")
    problem = Problem(model, inputs, targets, loss, optimizer)
    samples = 0 if samples is None and not lines else samples
    return judge(observe(problem, seed=seed, lines=lines, precision=precision, samples=samples), rules)


def judge(recording: Recording, rules: Sequence[Rule] = ALL_RULES) -> Diagnosis:
    """The diagnosis of a recording.

    >>> judge(recordings.RecordingBuilder().build()).findings
    ()
    """
    return Diagnosis(recording, judge_recording(recording, rules))


def load(path: str | Path, rules: Sequence[Rule] = ALL_RULES) -> Diagnosis:
    """The diagnosis of a saved recording, the same that its recording gave when it was saved.

    Raises:
        RecordingFileError: there is no such file, or it is damaged, foreign or of another schema version.
    """
    return judge(recordings.load(path), rules)
