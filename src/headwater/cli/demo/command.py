"""`headwater demo`: two experiments, a figure, and what to do next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click

from headwater.cli.errors import CommandError, ExitCode
from headwater.cli.output import check_writable, console

_EXTRA = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}
_FORMATS = (".png", ".pdf", ".svg")


@click.command(short_help="Watch a gradient die on two small networks: a tour.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("headwater-demo.png"),
    show_default=True,
    help="File to write the figure to.",
)
def demo(output: Path) -> ExitCode:
    """See where a gradient dies: the built-in experiment and a network on real data, within a minute."""
    _check_extras()
    _check_format(output)
    check_writable(output)

    from headwater.cli.demo.digits_chapter import show_digits
    from headwater.cli.demo.figure import write_figure
    from headwater.cli.demo.notebook_chapter import show_notebook

    page = console(sys.stdout)
    with _one_thread():
        panels = {
            "5 layers, one input: the notebook": show_notebook(page),
            "20 layers on handwritten digits": show_digits(page),
        }
    write_figure(panels, output)
    page.print(f"\nFigure: {output} (how much gradient arrives at each layer)", soft_wrap=True, markup=False)
    page.print("Your own model: headwater diagnose path/to/file.py:factory (--help says how)")
    return ExitCode.HEALTHY


def _check_extras() -> None:
    missing = [package for module, package in _EXTRA.items() if find_spec(module) is None]
    if missing:
        raise CommandError(f"the demo needs {' and '.join(missing)}: pip install 'headwater[demo]'")


def _check_format(output: Path) -> None:
    if output.suffix not in _FORMATS:
        formats = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise CommandError(f"expected --output to end in {formats}, got '{output}'")


@contextmanager
def _one_thread() -> Iterator[None]:
    # Several threads spend far longer waiting for one another than on layers this small.
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
