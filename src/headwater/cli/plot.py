"""`headwater plot RESULT`: the greatest trainable depths of a sweep, and its heat map."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.errors import CommandError, ExitCode
from headwater.cli.output import check_writable
from headwater.cli.sweep_errors import errors_in_one_sentence, number, warnings_as_lines
from headwater.cli.sweep_summary import summary

if TYPE_CHECKING:
    from headwater.lab.sweep import SweepResult
    from headwater.lab.sweep.heat_map import HeatMap


@click.command(short_help="Draw the results of a sweep.")
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--figure", type=click.Path(path_type=Path), help="Write the heat map into this file: .png, .pdf, .svg.")
@click.option("--x", help="Parameter to the right.  [default: weight_variance, or the first other one with numbers]")
@click.option("--y", default="depth", show_default=True, help="Parameter upwards.")
@click.option("--value", type=click.Choice(["accuracy", "gain_decades"]), help="What the colour shows.")
@click.option("--where", multiple=True, metavar="NAME=VALUE", help="Which value of another axis. May be repeated.")
def plot(
    result: Path, figure: Path | None, x: str | None, y: str, value: str | None, where: tuple[str, ...]
) -> ExitCode:
    """Print the greatest trainable depths of a sweep, and draw depth over weight variance with theory's 6 xi over it.

    RESULT is the folder that 'headwater sweep' wrote.
    """
    from headwater.lab.sweep import read_sweep

    if figure is not None:
        check_writable(figure)
    with errors_in_one_sentence(), warnings_as_lines():
        found = read_sweep(result)
        click.echo(summary(found))
        if figure is not None:
            _draw(_data(found, x, y, value, where), figure)
            sys.stderr.write(f"drawn: {figure}\n")
    return ExitCode.HEALTHY


def _data(result: SweepResult, x: str | None, y: str, value: str | None, where: tuple[str, ...]) -> HeatMap:
    from headwater.lab.sweep.heat_map import heat_map_data

    chosen = dict(_pair(item) for item in where)
    return heat_map_data(result, x=x or _first_axis(result, y), y=y, value=value, where=chosen)


def _first_axis(result: SweepResult, y: str) -> str:
    axes = [name for name, values in result.axes.items() if all(isinstance(each, int | float) for each in values)]
    found = [name for name in ("weight_variance", *axes) if name in axes and name != y]
    if not found:
        raise CommandError(
            f"a heat map needs two axes with numbers, and the sweep has {', '.join(axes) or 'none'}; add one, as weight_variance"
        )
    return found[0]


def _pair(item: str) -> tuple[str, Any]:
    name, equals, text = item.partition("=")
    if not name or not equals or not text:
        raise CommandError(f"expected --where NAME=VALUE, as in --where activation=tanh, got '{item}'")
    return name, number(text)


def _draw(data: HeatMap, path: Path) -> None:
    from headwater.lab.sweep.heat_map import plot_heat_map

    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise CommandError(
            "figures need matplotlib, which is not installed: pip install 'headwater[figures]'"
        ) from None
    figure = Figure(figsize=(7, 4.6), dpi=150, layout="constrained")
    plot_heat_map(data, figure.subplots())
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # a ValueError for a format that there is not
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"cannot write the figure '{path}': {reason}; name another file with --figure") from None
