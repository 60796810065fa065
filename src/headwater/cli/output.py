"""Where output goes and what it may hold: width, colour, encoding."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from headwater.cli.errors import CommandError

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
_MAX_WIDTH = 120  # longer lines of text are hard to read

# One character for one, so that tables stay aligned.
_SIMILAR = {
    "-": "−–—─━┄┈╌",
    "|": "│┃┆┊║‖",
    "+": "├└┌┐┘┤┬┴┼╭╮╰╯✓",
    "=": "═",
    "#": "█▉▊▋▌▆▇▓■",
    ":": "▍▎▏▄▅▒",
    ".": "·…▁▂▃░",
    "*": "•●",
    "o": "○□",
    "x": "×✗",
    "~": "≈",
    "<": "≤←‹",
    ">": "≥→›",
    "^": "↑▲",
    "v": "↓▼",
    "'": "‘’",
    '"': "“”",
}
_ASCII_FOR = {ord(character): similar for similar, characters in _SIMILAR.items() for character in characters}


def prepare_streams() -> None:
    """Makes sure that no character can stop the output: one that the encoding lacks is replaced by a similar one.

    >>> prepare_streams()
    >>> "−3.66 ×".encode("ascii", errors="headwater-similar")
    b'-3.66 x'
    """
    codecs.register_error("headwater-similar", _similar_characters)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # not a text stream of Python's own, or closed
            stream.reconfigure(errors="headwater-similar")  # type: ignore[union-attr]


def _similar_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    similar = error.object[error.start : error.end].translate(_ASCII_FOR)
    return "".join(character if character.isascii() else "?" for character in similar), error.end


def is_colored(stream: TextIO) -> bool:
    """Whether a stream gets colour: a terminal, unless NO_COLOR (no-color.org) or TERM=dumb says no.

    >>> from io import StringIO
    >>> is_colored(StringIO())
    False
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int:
    """Columns to write: those of the terminal, 120 at most, and 80 in a pipe or file.

    >>> from io import StringIO
    >>> width(StringIO())
    80
    """
    return min(shutil.get_terminal_size((WIDTH, 24)).columns, _MAX_WIDTH) if stream.isatty() else WIDTH


def console(stream: TextIO) -> Console:
    """A rich console on a stream, as wide and as colourful as the stream may be.

    >>> console(sys.stdout).print("[bold]plain[/]")
    plain
    """
    from rich.console import Console

    return Console(
        file=stream,
        width=width(stream),
        no_color=not is_colored(stream),
        force_terminal=stream.isatty(),
        highlight=False,
        emoji=False,
    )


def check_writable(path: Path) -> None:
    """Nothing, where a file can be written; asked before the work, so that minutes do not end at a misspelt folder.

    Raises:
        CommandError: there is no such folder, or no permission.

    >>> check_writable(Path("no such folder") / "run.hw")
    Traceback (most recent call last):
    headwater.cli.errors.CommandError: cannot write '...': there is no folder ...
    """
    if not path.parent.is_dir():
        raise CommandError(f"cannot write '{path}': there is no folder '{path.parent}'; make it, or name another one")
    if path.is_dir():
        raise CommandError(f"cannot write '{path}': it is a folder; name a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CommandError(f"cannot write '{path}': no permission; name another file")
