"""The command group and `main`, which turns every way a run can end into an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import click

from headwater._version import __version__
from headwater.cli.compare import compare
from headwater.cli.demo import demo
from headwater.cli.diagnose import diagnose
from headwater.cli.env import env
from headwater.cli.errors import CommandError, ExitCode, described
from headwater.cli.output import prepare_streams
from headwater.cli.plot import plot
from headwater.cli.report import report
from headwater.cli.sweep import sweep


@dataclass
class Settings:
    """What a run was asked for besides its command; set by options, read by `main`."""

    traceback: bool = False


_HELP = """See where a gradient dies, in any PyTorch model.

\b
headwater demo                              a tour on two small networks
headwater diagnose path/to/file.py:factory  your own model
headwater compare "mlp depth=20" "mlp depth=20 shortcut=identity"
headwater sweep experiment.toml             a grid of networks, over seeds
"""


@click.group(help=_HELP, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="headwater %(version)s")
@click.pass_context
def headwater(context: click.Context) -> int | None:
    """A usage error where no command was given, and the help with it."""
    if context.invoked_subcommand is not None:
        return None
    click.echo(context.get_help(), err=True)
    return ExitCode.USAGE_ERROR  # not 0: that would be "healthy" to a script that forgot the command


for command in (demo, diagnose, compare, sweep, plot, report, env):
    headwater.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one run of the command line: see `ExitCode`.

    Args:
        argv: arguments after the program's name; those of the process if left out.

    >>> main(["--version"])
    headwater ...
    0
    """
    prepare_streams()
    settings = Settings()
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv), settings)
        sys.stdout.flush()  # here, where a closed pipe can be caught, and not when the interpreter ends
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "headwater"
        return _fail(f"{error.format_message().rstrip('.')} ('{path} --help' shows what there is)")
    except click.ClickException as error:
        return _fail(error.format_message())
    except CommandError as error:
        return _fail(str(error), error.__cause__, show_traceback=settings.traceback)
    except BrokenPipeError:
        _discard_output()
        return ExitCode.BROKEN_PIPE
    except OSError as error:
        if not _is_of_output(error):
            return _bug(error)
        _discard_output()
        return _fail(f"cannot write the output: {error.strerror}; free space, or send it elsewhere")
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("headwater: interrupted\n")
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # whatever it is: exit code 1 would say that the model has findings
        return _bug(error)
    return code


def _is_of_output(error: OSError) -> bool:
    """Whether it is the full disk behind standard output: files that commands write say so themselves, by their names."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and error.filename is None


def _bug(error: Exception) -> int:
    traceback.print_exception(error)
    _fail(f"this is a bug in headwater, please report it: {described(error)}")
    return ExitCode.BUG


def _run(argv: list[str], settings: Settings) -> int:
    # Not `headwater.main`, which ends the process by itself where a pipe is closed.
    try:
        with headwater.make_context("headwater", argv, obj=settings) as context:
            return int(headwater.invoke(context) or ExitCode.HEALTHY)
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code


def _fail(sentence: str, cause: BaseException | None = None, *, show_traceback: bool = False) -> int:
    if cause is not None and show_traceback:
        traceback.print_exception(cause)
    hint = " (--traceback shows where)" if cause is not None and not show_traceback else ""
    sys.stderr.write(f"headwater: {sentence}{hint}\n")
    return ExitCode.USAGE_ERROR


def _discard_output() -> None:
    # Python flushes standard output once more at its end, into the closed pipe: give it somewhere to go.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
