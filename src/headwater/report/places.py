"""How lines of code are named in a report."""

from __future__ import annotations

from pathlib import Path

from headwater.recording import SourceLine


def place(line: SourceLine) -> str:
    """File and number, as an editor or a terminal opens it; relative where the file is below the working directory.

    >>> place(SourceLine("<ipython-input-1>", 3, "y = x.sigmoid()"))
    '<ipython-input-1>:3'
    """
    return f"{shown_file(line.file)}:{line.line}"


def shown_file(file: str) -> str:
    """The path, relative where the file is below the working directory.

    >>> shown_file(str(Path.cwd() / "model.py"))
    'model.py'
    """
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return file
