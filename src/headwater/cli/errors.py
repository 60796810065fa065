"""What can go wrong in a command, the exit codes, and the words for errors of the user's own code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a run of `headwater` says to the shell."""

    HEALTHY = 0
    FINDINGS = 1
    USAGE_ERROR = 2
    BUG = 3
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it
    BROKEN_PIPE = 141  # 128 + SIGPIPE


class CommandError(Exception):
    """A command cannot do what was asked; the message is one sentence: what was expected, what arrived, what to do.

    Where the user's own code failed, `__cause__` is its exception, and `--traceback` shows it.
    """


def described(error: BaseException) -> str:
    r"""The type of an exception and the first line of its message.

    >>> described(ValueError("bad shape\nand more"))
    'ValueError: bad shape'
    >>> described(KeyError())
    'KeyError'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
