"""`headwater compare VARIANT VARIANT ...`: the same seeds, data and cotangents for several networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.errors import CommandError, ExitCode
from headwater.cli.options import traceback_option
from headwater.cli.output import check_writable, width

if TYPE_CHECKING:
    from headwater.lab.comparison import Comparison

_FIGURE_FORMATS = (".png", ".pdf", ".svg")
_OPTIMIZERS = ("adam", "sgd")
_NO_LOSS = (
    "expected a loss to train with: take --inputs digits, or a factory that returns a headwater.Problem with its loss"
)


@click.command(short_help="Compare networks over many seeds.")
@click.argument("variants", nargs=-1, metavar="VARIANT VARIANT...")
@click.option("--seeds", type=click.IntRange(min=1), default=64, show_default=True, help="How many.")
@click.option(
    "--inputs", metavar="DATA", help="normal, digits, or pkg.module:factory. [default: a factory's own, or normal]"
)
@click.option("--samples", type=click.IntRange(min=1), default=256, show_default=True, help="Of normal and digits.")
@click.option("--train", type=click.IntRange(min=1), help="Also train each network for so many steps.")
@click.option("--optimizer", type=click.Choice(_OPTIMIZERS), default="adam", show_default=True, help="To train with.")
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Of the optimizer.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples of a training step. [default: all]")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; the results are the same."
)
@click.option(
    "--format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="To read, or strict JSON."
)
@click.option("--figure", type=click.Path(path_type=Path), help="Write a picture: .png, .pdf or .svg.")
@click.option("--save", type=click.Path(path_type=Path), help="Save the comparison in this file, as JSON.")
@traceback_option
def compare(variants: tuple[str, ...], format: str, figure: Path | None, save: Path | None, **options: Any) -> ExitCode:
    """Build each variant under the same seeds, run one pass on the same data, and say what distinguishes them.

    A VARIANT is a specification in quotes, as in "mlp depth=20 shortcut=identity", or pkg.module:factory or
    path/to/file.py:factory. The factory is a function without arguments that returns a network or a headwater.Problem.
    The first variant is the baseline.

    The exit code is 0, or 2 for a usage error.
    """
    if len(variants) < 2:
        raise CommandError(
            f'expected two variants or more, got {len(variants)}: headwater compare "mlp depth=20" "mlp depth=20 shortcut=identity"'
        )
    _check_outputs(figure, save)
    with redirect_stdout(sys.stderr):  # what the user's code prints is not part of the report
        comparison = _comparison(variants, **options)
    if save is not None:
        _save(comparison, save)
    if figure is not None:
        _draw(comparison, figure)
    _print(comparison, format)
    return ExitCode.HEALTHY


def _check_outputs(figure: Path | None, save: Path | None) -> None:
    """Before the work, so that minutes do not end at a misspelt folder."""
    for path in (figure, save):
        if path is not None:
            check_writable(path)
    if figure is not None and figure.suffix not in _FIGURE_FORMATS:
        raise CommandError(
            f"expected --figure to end in {', '.join(_FIGURE_FORMATS[:-1])} or {_FIGURE_FORMATS[-1]}, got '{figure}'"
        )
    if figure is not None and find_spec("matplotlib") is None:
        raise CommandError("a figure needs matplotlib: pip install 'headwater[figures]'")


def _comparison(
    words: tuple[str, ...],
    *,
    seeds: int,
    inputs: str | None,
    samples: int,
    train: int | None,
    optimizer: str,
    learning_rate: float,
    batch_size: int | None,
    jobs: int,
) -> Comparison:
    from headwater.capture import ProblemError
    from headwater.cli.compare_data import fitted, load_data, load_variants
    from headwater.lab.compare import compare as compared
    from headwater.lab.training import NO_LOSS

    variants = fitted(load_variants(words), inputs)
    data = load_data(inputs, variants, samples)
    training: dict[str, Any] = {}
    if train is not None:
        training = {
            "train": train,
            "optimizer": Optimizers(optimizer, learning_rate),
            "batch_size": batch_size,
            "held_out": data.held_out,
        }
    try:
        with _executor(jobs) as executor:
            return compared(
                variants, data.inputs, data.targets, loss=data.loss, seeds=seeds, executor=executor, **training
            )
    except ProblemError as error:
        raise CommandError(str(error).replace(NO_LOSS, _NO_LOSS)) from error.__cause__


@dataclass(frozen=True, slots=True)
class Optimizers:
    """Makes the optimiser that the options name; can be sent to another process."""

    name: str
    learning_rate: float

    def __call__(self, parameters: Any) -> Any:
        """An optimiser of the parameters."""
        import torch

        kind = torch.optim.Adam if self.name == "adam" else torch.optim.SGD
        return kind(parameters, lr=self.learning_rate)


@contextmanager
def _executor(jobs: int) -> Iterator[Executor | None]:
    """Loky's processes, which take functions of scripts too; None for this one."""
    if jobs == 1:
        yield None
        return
    if find_spec("loky") is None:
        raise CommandError("--jobs needs loky: pip install 'headwater[lab]'")
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(max_workers=jobs) as executor:
        yield executor


def _save(comparison: Comparison, path: Path) -> None:
    from headwater.lab.comparison_file import ComparisonFileError

    try:
        comparison.save(path)
    except ComparisonFileError as error:
        raise CommandError(f"{error}; name another file with --save") from None
    sys.stderr.write(f"saved: {path}\n")


def _draw(comparison: Comparison, path: Path) -> None:
    from headwater.lab.comparison_figures import write_figure

    try:
        write_figure(comparison, path)
    except OSError as error:
        raise CommandError(f"cannot write the figure '{path}': {error.strerror or error}; name another file") from None
    sys.stderr.write(f"figure: {path}\n")


def _print(comparison: Comparison, format: str) -> None:
    if format == "json":
        print(json.dumps(comparison.to_dict(), allow_nan=False, indent=2))
        return
    from headwater.report import can_show

    print(comparison.to_text(width=width(sys.stdout), ascii_only=not can_show(sys.stdout.encoding)), end="")
