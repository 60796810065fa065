"""`headwater sweep experiment.toml`: a grid of networks, measured on all cores or a cluster."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.errors import CommandError, ExitCode
from headwater.cli.options import traceback_option
from headwater.cli.sweep_errors import errors_in_one_sentence, number, warnings_as_lines
from headwater.cli.sweep_summary import summary

if TYPE_CHECKING:
    from headwater.lab.sweep.experiment import Experiment


@click.command(short_help="Measure a grid of networks.")
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results, instead of [output].")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with results that are there.")
@click.option("--retry-failed", is_flag=True, help="Run the cells that failed once more.")
@click.option("--engine", type=click.Choice(["loky", "serial", "dask", "ray", "slurm"]), help="Instead of [engine].")
@click.option("--workers", type=click.IntRange(min=1), help="How many run at the same time.")
@click.option("--address", help="Of a Dask scheduler or a Ray cluster.")
@click.option("--seeds", type=click.IntRange(min=1), help="Networks per cell.")
@click.option("--train", type=click.IntRange(min=0), help="Steps of training; 0 for none.")
@click.option("--skip-impossible", is_flag=True, help="Leave combinations out that do not exist.")
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUES", help="Other values: depth=4,8,16. May be repeated."
)
@traceback_option
def sweep(
    experiment: Path,
    output: Path | None,
    resume: bool,
    retry_failed: bool,
    sets: tuple[str, ...],
    **options: Any,
) -> ExitCode:
    """Measure every network of a grid over many seeds, beside what theory expects.

    EXPERIMENT is a TOML file with the tables [grid], [base], [data], [measure], [engine] and [output]; options win over it. Every
    finished cell is kept: after Ctrl-C, a crash or a full disk, the same command goes on where it was. 'headwater plot FOLDER' draws the
    results.
    """
    with errors_in_one_sentence():
        chosen = _overridden(experiment, output, sets, **options)
        try:
            with warnings_as_lines():
                result = chosen.run(resume=resume, retry_failed=retry_failed)
        except KeyboardInterrupt:
            sys.stderr.write(
                f"headwater: interrupted; what is finished is in '{chosen.output}', and the same command goes on ('headwater plot "
                f"{chosen.output}' shows it)\n"
            )
            return ExitCode.INTERRUPTED
        click.echo(summary(result))
        none_measured = len(result.failures()) == len(result)
    return ExitCode.USAGE_ERROR if none_measured else ExitCode.HEALTHY


def _overridden(
    path: Path,
    output: Path | None,
    sets: tuple[str, ...],
    *,
    engine: str | None,
    workers: int | None,
    address: str | None,
    seeds: int | None,
    train: int | None,
    skip_impossible: bool,
) -> Experiment:
    from headwater.lab.sweep.experiment import EngineChoice, read_experiment

    found = read_experiment(path)
    for item in sets:
        found = found.with_values(*_set(item))
    given = {"seeds": seeds, "train": train, "impossible": "skip" if skip_impossible else None}
    settings = {**found.settings, **{name: value for name, value in given.items() if value is not None}}
    before = found.engine
    choice = before if engine in (None, before.kind) else EngineChoice(kind=engine, workers=before.workers)
    own = {name: value for name, value in (("workers", workers), ("address", address)) if value is not None}
    return replace(
        found, settings=settings, engine=replace(choice, **own), output=found.output if output is None else output
    ).checked()


def _set(item: str) -> tuple[str, list[Any]]:
    name, equals, text = item.partition("=")
    if not name or not equals or not text:
        raise CommandError(f"expected --set NAME=VALUES, as in --set depth=4,8,16, got '{item}'")
    return name, [number(word) for word in text.split(",")]
