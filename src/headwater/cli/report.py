"""`headwater report FILE`: the diagnosis of a saved recording, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
)
from headwater.cli.presentation import print_diagnosis

if TYPE_CHECKING:
    from headwater.diagnosis import Diagnosis
    from headwater.findings import Rule


@click.command(short_help="Print the diagnosis of a saved recording.")
@click.argument("file", type=click.Path(path_type=Path))
@format_option
@all_option
@fail_on_option
@select_option
@ignore_option
def report(
    file: Path, format: str, show_all: bool, fail_on: str, select: tuple[str, ...], ignore: tuple[str, ...]
) -> ExitCode:
    """Print the diagnosis of a recording that `headwater diagnose --save` or `Diagnosis.save` wrote.

    The exit code is 0 for a healthy model, 1 for findings, and 2 for a usage error.
    """
    diagnosis = _loaded(file, rules_of(select, ignore))
    print_diagnosis(diagnosis, format=format, show_all=show_all)
    return exit_code(diagnosis, fail_on)


def _loaded(file: Path, rules: tuple[Rule, ...]) -> Diagnosis:
    import headwater as hw
    from headwater.recording import RecordingFileError

    try:
        return hw.load(file, rules)
    except RecordingFileError as error:
        raise CommandError(str(error)) from None
