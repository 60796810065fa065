"""`headwater diagnose TARGET`: one pass of the user's model, and what it says."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.errors import CommandError, ExitCode
from headwater.cli.options import (
    all_option,
    exit_code,
    fail_on_option,
    format_option,
    ignore_option,
    rules_of,
    select_option,
    traceback_option,
)
from headwater.cli.output import check_writable
from headwater.cli.presentation import print_diagnosis, print_source
from headwater.cli.target import load_problem, missing_device

if TYPE_CHECKING:
    from headwater.diagnosis import Diagnosis


@click.command(short_help="Diagnose your own model.")
@click.argument("target")
@click.option("--save", type=click.Path(path_type=Path), help="Save the recording in this file.")
@format_option
@all_option
@fail_on_option
@select_option
@ignore_option
@click.option("--lines", "show_lines", is_flag=True, help="Print your source code with the decades of each line.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random generators.")
@click.option("--precision", help="Ask what a format would lose of the gradients: float16, float8_e5m2, ...")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    help="How many samples' own gradients to look at; 0 for none. [default: up to 16]",
)
@traceback_option
def diagnose(
    target: str,
    save: Path | None,
    format: str,
    show_all: bool,
    fail_on: str,
    show_lines: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    **options: Any,
) -> ExitCode:
    """Run one forward and backward pass of your model and say where its gradient dies.

    TARGET is pkg.module:factory or path/to/file.py:factory. The factory is a function without arguments that returns
    a headwater.Problem: model, inputs, and, where there are any, targets, loss and optimizer.

    The exit code is 0 for a healthy model, 1 for findings, and 2 for a usage error.
    """
    if save is not None:
        check_writable(save)
    rules = rules_of(select, ignore)
    with redirect_stdout(sys.stderr):  # what the user's code prints is not part of the report
        diagnosis = _diagnosis(target, rules=rules, **options)
    if save is not None:
        _save(diagnosis, save)
    print_diagnosis(diagnosis, format=format, show_all=show_all)
    if show_lines and format == "text":
        print_source(diagnosis)
    return exit_code(diagnosis, fail_on)


def _diagnosis(target: str, *, seed: int, **options: Any) -> Diagnosis:
    import headwater as hw

    problem = load_problem(target, seed=seed)
    try:
        return hw.diagnose(
            problem.model,
            problem.inputs,
            problem.targets,
            loss=problem.loss,
            optimizer=problem.optimizer,
            seed=seed,
            **options,
        )
    except hw.ProblemError as error:
        # Without a cause in the user's code there is no traceback worth a look.
        raise CommandError(missing_device(error) or str(error)) from error.__cause__


def _save(diagnosis: Diagnosis, path: Path) -> None:
    from headwater.recording import RecordingFileError

    try:
        diagnosis.save(path)
    except RecordingFileError as error:
        raise CommandError(str(error)) from None
    sys.stderr.write(f"saved: {path} ('headwater report {path}' prints it again)\n")
